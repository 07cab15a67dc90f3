//! Checkpoints: our own families, with buckets for freezes of a millisecond and for archives that
//! take minutes.

use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Bounds of what may take minutes, in seconds.
const MINUTES: [f64; 16] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
    3600.0,
];
/// Bounds of what should take milliseconds, in seconds.
const FREEZE: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

/// Where a checkpoint is, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Looking for pod and container.
    Lookup,
    /// Another checkpoint is before it.
    Waiting,
    /// The runtime works on it.
    Runtime,
    /// The archive is brought to the disk, or what is left of it removed; the container is seen to.
    Aftermath,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Waiting => "waiting",
            Self::Runtime => "runtime",
            Self::Aftermath => "aftermath",
        }
    }
}

/// `cryopod_checkpoint*`. Clones share the values.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointMetrics {
    duration: Family<ResultLabels, Histogram>,
    phases: Family<PhaseLabels, Histogram>,
    freeze: Histogram,
    bytes: Histogram,
    inflight: Gauge,
    waiting: Gauge,
}

/// One checkpoint's way. A course that is dropped before its end was cancelled.
#[derive(Debug)]
pub(crate) struct Course {
    metrics: CheckpointMetrics,
    since: Instant,
    phase: (Phase, Instant),
    result: &'static str,
}

impl Default for CheckpointMetrics {
    fn default() -> Self {
        let minutes = || Histogram::new(MINUTES);
        Self {
            duration: Family::new_with_constructor(minutes),
            phases: Family::new_with_constructor(minutes),
            freeze: Histogram::new(FREEZE),
            // One MiB to 256 GiB.
            bytes: Histogram::new(exponential_buckets(1_048_576.0, 4.0, 10)),
            inflight: Gauge::default(),
            waiting: Gauge::default(),
        }
    }
}

impl CheckpointMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "cryopod_checkpoint_duration_seconds",
            "Seconds a checkpoint request took, by result",
            metrics.duration.clone(),
        );
        registry.register(
            "cryopod_checkpoint_phase_seconds",
            "Seconds a checkpoint request spent in a phase",
            metrics.phases.clone(),
        );
        registry.register(
            "cryopod_checkpoint_freeze_seconds",
            "Seconds a container stood still; only the embedded runtime says so",
            metrics.freeze.clone(),
        );
        registry.register(
            "cryopod_checkpoint_bytes",
            "Sizes of archives in bytes",
            metrics.bytes.clone(),
        );
        registry.register(
            "cryopod_checkpoints_inflight",
            "Checkpoints the runtime works on now",
            metrics.inflight.clone(),
        );
        registry.register(
            "cryopod_checkpoint_waiting",
            "Checkpoint requests that wait for another checkpoint now",
            metrics.waiting.clone(),
        );
        metrics
    }

    /// A request for a checkpoint; it looks for its container.
    pub(crate) fn begin(&self) -> Course {
        let now = Instant::now();
        Course {
            metrics: self.clone(),
            since: now,
            phase: (Phase::Lookup, now),
            result: "cancelled",
        }
    }

    /// An archive was made; `freeze` where the runtime told it.
    pub(crate) fn made(&self, bytes: Option<u64>, freeze: Option<Duration>) {
        if let Some(bytes) = bytes {
            #[expect(clippy::cast_precision_loss, reason = "sizes beyond 2^53 are not met")]
            self.bytes.observe(bytes as f64);
        }
        if let Some(freeze) = freeze {
            self.freeze.observe(freeze.as_secs_f64());
        }
    }

    fn gauge(&self, phase: Phase) -> Option<&Gauge> {
        match phase {
            Phase::Lookup | Phase::Aftermath => None,
            Phase::Waiting => Some(&self.waiting),
            Phase::Runtime => Some(&self.inflight),
        }
    }

    fn leave(&self, (phase, since): (Phase, Instant)) {
        if let Some(gauge) = self.gauge(phase) {
            gauge.dec();
        }
        let labels = PhaseLabels { phase: phase.as_str() };
        self.phases.get_or_create(&labels).observe(since.elapsed().as_secs_f64());
    }
}

impl Course {
    /// The next phase.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.metrics.leave(self.phase);
        if let Some(gauge) = self.metrics.gauge(phase) {
            gauge.inc();
        }
        self.phase = (phase, Instant::now());
    }

    /// It is over, and this is the label of how.
    pub(crate) fn end(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.metrics.leave(self.phase);
        let labels = ResultLabels { result: self.result };
        let seconds = self.since.elapsed().as_secs_f64();
        self.metrics.duration.get_or_create(&labels).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics};
    use super::*;

    #[test]
    fn gauges_follow_the_phases_and_a_dropped_course_was_cancelled() {
        let metrics = Metrics::new();
        let has = |line: &str| {
            let text = metrics.expose(Format::Text);
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        };
        let mut course = metrics.checkpoints.begin();
        has("cryopod_checkpoint_waiting 0");
        course.enter(Phase::Waiting);
        has("cryopod_checkpoint_waiting 1");
        has("cryopod_checkpoints_inflight 0");
        course.enter(Phase::Runtime);
        has("cryopod_checkpoint_waiting 0");
        has("cryopod_checkpoints_inflight 1");
        metrics.checkpoints.made(Some(5 << 20), Some(Duration::from_millis(2)));
        course.end("done");
        has("cryopod_checkpoints_inflight 0");
        drop(metrics.checkpoints.begin());
        for line in [
            "cryopod_checkpoint_duration_seconds_count{result=\"done\"} 1",
            "cryopod_checkpoint_duration_seconds_count{result=\"cancelled\"} 1",
            "cryopod_checkpoint_duration_seconds_bucket{result=\"done\",le=\"3600\"} 1",
            "cryopod_checkpoint_phase_seconds_count{phase=\"lookup\"} 2",
            "cryopod_checkpoint_phase_seconds_count{phase=\"waiting\"} 1",
            "cryopod_checkpoint_phase_seconds_count{phase=\"runtime\"} 1",
            "cryopod_checkpoint_freeze_seconds_bucket{le=\"0.001\"} 0",
            "cryopod_checkpoint_freeze_seconds_bucket{le=\"0.0025\"} 1",
            "cryopod_checkpoint_bytes_bucket{le=\"4194304\"} 0",
            "cryopod_checkpoint_bytes_sum 5242880",
        ] {
            has(line);
        }
    }
}
