//! Numbers that look random and are the same for the same seed.

use crate::event::mix;

/// A row of numbers.
#[derive(Debug, Clone)]
pub struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed: mix(seed), thrown: 0 }
    }

    /// The next number, less than `sides`; 0 where that is 0.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.thrown += 1;
        mix(self.seed ^ self.thrown) % sides.max(1)
    }
}
