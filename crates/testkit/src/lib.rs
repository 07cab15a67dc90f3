//! Development only: victim programs, kernel probes.
