//! What fails at the moment, so that it is said once when it begins and once when it ends.

/// The operations of one task that failed when they were last tried.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    failing: Vec<&'static str>,
}

impl Trouble {
    /// Notes a failure. True: it is the first since the operation last worked, and worth a line.
    pub fn failed(&mut self, operation: &'static str) -> bool {
        let first = !self.failing.contains(&operation);
        if first {
            self.failing.push(operation);
        }
        first
    }

    /// Notes that the operation worked, and says so if it did not before.
    pub fn worked(&mut self, operation: &'static str) {
        if self.forget(operation) {
            tracing::info!(operation, "works again");
        }
    }

    /// The same, of a partition's operation.
    pub fn worked_in(&mut self, partition: u32, operation: &'static str) {
        if self.forget(operation) {
            tracing::info!(partition, operation, "works again");
        }
    }

    fn forget(&mut self, operation: &'static str) -> bool {
        let before = self.failing.len();
        self.failing.retain(|failing| *failing != operation);
        self.failing.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_once_until_the_operation_works_again() {
        let mut trouble = Trouble::default();
        assert!(trouble.failed("mark"));
        assert!(trouble.failed("open"));
        assert!(!trouble.failed("mark"));
        trouble.worked("insert");
        assert!(!trouble.failed("open"), "another operation worked");
        trouble.worked("open");
        assert!(trouble.failed("open"));
        assert!(!trouble.failed("mark"));
    }
}
