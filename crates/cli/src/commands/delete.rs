//! `delete`: archives, by name.

use bytes::Bytes;
use cryopod_kubelet::Store;
use http::{HeaderMap, Method};

use super::archives_folder;
use crate::print;
use crate::remote::{DeleteArgs, Remote, segment};

/// Stops at the first that fails: those before it are gone, and printed.
pub(super) async fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        for name in &args.archives {
            let path = format!("/cryopod/v1/archives/{}", segment(name));
            remote.send(Method::DELETE, &path, HeaderMap::new(), Bytes::new()).await?;
            print::line(name)?;
        }
        return Ok(());
    }
    let store = Store::at(archives_folder(&args.connection, args.dir.as_deref()).await?)?;
    for name in &args.archives {
        store.delete(name).await?;
        print::line(name)?;
    }
    Ok(())
}
