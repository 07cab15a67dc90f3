//! `version`: this program, and the runtime that answers on the socket, if one does.

use std::time::Duration;

use cryopod_cri::Client;
use serde::Serialize;

use crate::args::{Output, VersionArgs};
use crate::print;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    version: &'static str,
    runtime: Option<Runtime>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    name: String,
    version: String,
    api_version: String,
}

pub(super) async fn run(args: &VersionArgs) -> anyhow::Result<()> {
    let runtime = match Client::connect(&args.connection.socket).await {
        Ok(client) => {
            let answer = client.version(Duration::from_secs(5)).await?;
            Some(Runtime {
                name: answer.runtime_name,
                version: answer.runtime_version,
                api_version: answer.runtime_api_version,
            })
        }
        // Nobody there is an answer, too.
        Err(_) => None,
    };
    let versions = Versions { version: env!("CARGO_PKG_VERSION"), runtime };
    if args.result.output == Output::Json {
        return print::json(&versions);
    }
    print::line(format_args!("cryopod {}", versions.version))?;
    match &versions.runtime {
        Some(Runtime { name, version, api_version }) => print::line(format_args!(
            "runtime {name} {version}, CRI {api_version}, at {}",
            args.connection.socket
        )),
        None => print::line(format_args!("no runtime answers at {}", args.connection.socket)),
    }
}
