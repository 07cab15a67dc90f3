//! `download`: an archive of a node far away, into a file here.

use std::path::PathBuf;

use crate::exit::Refused;
use crate::print;
use crate::quantity::bytes_text;
use crate::remote::{self, DownloadArgs, Remote};

pub(super) async fn run(args: &DownloadArgs) -> anyhow::Result<()> {
    let Some(remote) = Remote::open(&args.server)? else {
        let reason =
            "which node's? Give --server; on the node itself the archive is a file of the \
                      folder that `cryopod list` shows"
                .to_owned();
        return Err(Refused { reason }.into());
    };
    let target = match &args.file {
        Some(file) => file.clone(),
        None => PathBuf::from(&args.archive),
    };
    let bytes = remote::download(&remote, &args.archive, &target).await?;
    print::line(target.display())?;
    print::note(format_args!("{}; it holds secrets: keep it as one", bytes_text(bytes)));
    Ok(())
}
