//! Where the time of a freeze goes.

use std::time::{Duration, Instant};

/// Names of parts of the work, and the time each took in total. Parts follow each other without gaps.
#[derive(Debug, Clone)]
pub struct Phases {
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Default for Phases {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Phases {
    /// The first part began at that moment.
    #[must_use]
    pub const fn since(begin: Instant) -> Self {
        Self { last: begin, parts: Vec::new() }
    }

    /// What was done since the last call belongs to this part.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.last, now);
        match self.parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += took,
            None => self.parts.push((name, took)),
        }
    }

    /// The parts, in the order they came first.
    #[must_use]
    pub fn parts(&self) -> &[(&'static str, Duration)] {
        &self.parts
    }
}
