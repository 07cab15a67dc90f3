//! Programs that run in containers while something is measured or proven (`loads/NAME.c`, linked statically: a root
//! filesystem needs nothing else). What each does on which words is told at the head of its source.

use std::path::Path;

/// Looks at the clock every millisecond, with memory and a load of a chosen size.
#[must_use]
pub fn ticker() -> &'static Path {
    Path::new(concat!(env!("OUT_DIR"), "/loads/ticker"))
}

/// Checks that its memory is of a single instant, always.
#[must_use]
pub fn verifier() -> &'static Path {
    Path::new(concat!(env!("OUT_DIR"), "/loads/verifier"))
}
