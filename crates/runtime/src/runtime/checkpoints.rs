//! Taking checkpoints.

use std::path::Path;
use std::time::Instant;

use super::containers::wrong_state;
use super::{Result, Runtime};
use crate::checkpoint::{CheckpointOptions, CheckpointReport};
use crate::error::RuntimeError;
use crate::record::Phase;
use crate::shim::{Request, Response, ask_until};

impl Runtime {
    /// Takes a checkpoint of a running container into an archive at `location`, which appears only
    /// when it is whole.
    ///
    /// # Errors
    /// Kind [`Refused`](crate::ErrorKind::Refused) when the container holds what cannot be carried
    /// over; on any failure the container goes on and no file is left.
    pub fn checkpoint_container(
        &self,
        id: &str,
        location: &Path,
        options: &CheckpointOptions,
    ) -> Result<CheckpointReport> {
        let begun = Instant::now();
        if !location.is_absolute() {
            return Err(RuntimeError::InvalidArgument {
                field: "location",
                reason: format!("{location:?} is not absolute"),
            });
        }
        let record = self.container(id)?;
        if record.phase != Phase::Running {
            return Err(wrong_state(&record, "only a running one can be checkpointed"));
        }
        let request = Request::Checkpoint {
            id: record.id,
            location: location.into(),
            stop: options.stop,
            with_image: options.with_image,
            self_check: options.self_check,
            limit: options.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        };
        let dir = self.layout.shim_dir(&record.sandbox_id);
        match ask_until(&dir, &request, || options.cancel.is_cancelled())? {
            Response::Checkpointed(mut report) => {
                report.total_micros =
                    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                Ok(*report)
            }
            _ => Err(RuntimeError::Io {
                action: "understand the answer of",
                path: dir,
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        }
    }
}
