//! The last lines that the engine wrote, for the message when it does not start.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// An exception of ClickHouse with its hints takes about ten lines.
const LINES: usize = 20;

#[derive(Clone, Default)]
pub(super) struct Recent(Arc<Mutex<VecDeque<String>>>);

impl Recent {
    pub(super) fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
