//! What the engine does not carry yet, victim by victim, with the reason.
//!
//! A gap is either refused by name or loses what is told here (docs/fidelity.md). A victim that
//! passes has no place in this list: the coverage run and the engine's tests fail then.

const GAPS: &[(&str, &str)] = &[];

/// Why this victim is not carried yet; `None` for one that must pass.
pub fn gap(victim: &str) -> Option<&'static str> {
    GAPS.iter().find(|(name, _)| *name == victim).map(|(_, why)| *why)
}
