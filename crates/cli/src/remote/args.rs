//! The options by which a command talks to a node far away.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::args::{ConnectionArgs, OutputArgs};

/// Which node's HTTPS API a command talks to, and how.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "A node far away")]
pub(crate) struct ServerArgs {
    /// Talk to the HTTPS API at this address, in place of the socket: https://NODE:10250, or by the
    /// API server's proxy https://APISERVER/api/v1/nodes/NODE:PORT/proxy
    #[arg(long, env = "CRYOPOD_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Client certificate (PEM)
    #[arg(long, env = "CRYOPOD_CERT", value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Key (PEM) of the client certificate
    #[arg(long, env = "CRYOPOD_KEY", value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Certificates (PEM) of authorities the server is trusted by; those of this machine unless given
    #[arg(long, env = "CRYOPOD_CACERT", value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Bearer token; better in the variable, where other users do not see it
    #[arg(long, env = "CRYOPOD_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// Arguments of `describe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod describe checkpoint-counter_default-counter-2026-11-22T10:00:00Z.tar
  cryopod describe redis.tar --dir /mnt/usb --output json | jq .dump
  cryopod describe redis.tar --server https://node-1:10250 --cert c.crt --key c.key --cacert ca.crt")]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Name of the archive, as `cryopod list` has it
    pub(crate) archive: String,
    /// Folder to look in; the node's folder of checkpoints unless given
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

/// Arguments of `download`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod download redis.tar --server https://node-1:10250 --cert c.crt --key c.key --cacert ca.crt
  export CRYOPOD_SERVER=https://api.example:6443/api/v1/nodes/node-1:10250/proxy CRYOPOD_TOKEN=…
  cryopod download redis.tar /mnt/usb/redis.tar

A download that breaks off goes on where it broke. The archive is checked by the digests in it, and
shows under its name only when it is whole. It holds everything the container's memory held: keys,
tokens and passwords too.")]
pub(crate) struct DownloadArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Name of the archive, as `cryopod list` has it
    pub(crate) archive: String,
    /// File to make; the archive's name in this folder unless given
    pub(crate) file: Option<PathBuf>,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod delete checkpoint-counter_default-counter-2026-11-22T10:00:00Z.tar

An archive that is pinned, or that somebody reads, is not deleted.")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Names of archives, as `cryopod list` has them
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archives: Vec<String>,
    /// Folder to look in; the node's folder of checkpoints unless given
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of `kubectl checkpoint`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl checkpoint counter
      The archive's path on the pod's node is printed.
  kubectl checkpoint redis-0 -n shop -c redis --download redis.tar
      The archive is fetched, too, if cryopod serves on the node.

You need `create` on `nodes/proxy`, and the API server's own user `create` on `nodes/checkpoint`;
for --download it needs `get` on `nodes/checkpointcontent`. Link or copy this program to
`kubectl-checkpoint` in your PATH, and kubectl finds it.")]
pub(crate) struct KubectlArgs {
    /// The pod
    pub(crate) pod: String,
    /// Namespace of the pod; the context's unless given
    #[arg(long, short, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The container; kubectl's default one unless given
    #[arg(long, short, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Give up after so many seconds. The node never waits less than its own default
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: Option<u32>,
    /// Port of the node to ask; the kubelet's own unless given
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Fetch the archive into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) download: Option<PathBuf>,
    /// The kubeconfig; KUBECONFIG or ~/.kube/config unless given
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

/// The command line when the program is called as `kubectl-checkpoint`.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl checkpoint",
    bin_name = "kubectl checkpoint",
    version,
    about = "Take a checkpoint of a pod's container, which goes on",
    max_term_width = 100
)]
pub(crate) struct Kubectl {
    #[command(flatten)]
    pub(crate) args: KubectlArgs,
}

/// The name by which kubectl calls a plugin `checkpoint`.
pub(crate) const PLUGIN: &str = "kubectl-checkpoint";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_plugins_command_line_is_consistent() {
        Kubectl::command().debug_assert();
        let parsed = Kubectl::try_parse_from([
            "kubectl-checkpoint",
            "p",
            "-n",
            "ns",
            "-c",
            "c",
            "--timeout",
            "300",
        ]);
        let args = parsed.unwrap().args;
        assert_eq!(
            (&*args.pod, args.namespace.as_deref(), args.timeout),
            ("p", Some("ns"), Some(300))
        );
        assert!(Kubectl::try_parse_from(["kubectl-checkpoint"]).is_err());
    }
}
