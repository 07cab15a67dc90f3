//! The command line: names, defaults and the texts of `--help`. No effects here.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cryopod_kubelet::retention::{Age, MinFree, Size};

use crate::quantity::{Bytes, Cpus};
use crate::remote::{DeleteArgs, DescribeArgs, DownloadArgs, KubectlArgs, ServerArgs};
use crate::target::Target;

/// Socket of `cryopod serve` unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/cryopod/cryopod.sock";

/// Checkpoint a running container, and let it go on at the same point, here or elsewhere.
#[derive(Debug, Parser)]
#[command(
    name = "cryopod",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes:
  0 done    1 failed    2 wrong usage    3 not found    4 refused: not as things are now
  5 a time limit passed    6 `cryopod serve` cannot be reached
  `exec` gives the command's own code, and 125 when cryopod itself failed.

Begin with:
  cryopod demo                             see the whole way, with everything cleaned up after
  cryopod serve &                          the node agent: HTTPS API and container runtime
  cryopod run --host-programs --name counter -- /bin/sh -c 'while :; do date; sleep 1; done'
  cryopod checkpoint default/counter/counter
  cryopod restore /var/lib/kubelet/checkpoints/checkpoint-….tar

An archive holds everything the container's memory held: keys, tokens and passwords too.
Keep it and copy it as you would these."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent: the kubelet's checkpoint API over HTTPS, and the container runtime.
    Serve(Box<ServeArgs>),
    /// Make a container and let it run.
    Run(Box<RunArgs>),
    /// List pods' containers.
    Ps(PsArgs),
    /// Print what a container wrote.
    Logs(LogsArgs),
    /// Stop a container, or all of a pod.
    Stop(StopArgs),
    /// Remove a container, or a pod.
    Rm(RmArgs),
    /// Run a command in a running container and wait for its end.
    Exec(ExecArgs),
    /// Take a checkpoint of a running container into an archive.
    Checkpoint(CheckpointArgs),
    /// List checkpoint archives.
    List(ListArgs),
    /// Describe a checkpoint archive.
    Describe(DescribeArgs),
    /// Fetch a checkpoint archive from a node.
    Download(DownloadArgs),
    /// Delete checkpoint archives.
    Delete(DeleteArgs),
    /// Take a checkpoint by the API server: `kubectl checkpoint`, when called as kubectl-checkpoint.
    KubectlCheckpoint(Box<KubectlArgs>),
    /// Delete checkpoint archives that limits do not keep, the oldest first.
    Prune(Box<PruneArgs>),
    /// Protect checkpoint archives from retention.
    Pin(PinArgs),
    /// Take the protection of `pin` away.
    Unpin(PinArgs),
    /// Let a container go on from a checkpoint archive.
    Restore(Box<RestoreArgs>),
    /// Show the whole way: serve, run, checkpoint over HTTPS, kill, restore.
    Demo(DemoArgs),
    /// Explain the configuration of `serve`.
    Config(ConfigArgs),
    /// Print the versions of this program and of the runtime it talks to.
    Version(VersionArgs),
    /// The demo's container: counts, and watches the clock.
    #[command(hide = true)]
    Counter(CounterArgs),
}

/// Which server a command talks to.
#[derive(Args, Debug)]
pub(crate) struct ConnectionArgs {
    /// Socket of `cryopod serve` (or of another CRI runtime)
    #[arg(long, env = "CRYOPOD_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: String,
}

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON document
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text each
    #[default]
    Text,
    /// One JSON object each
    Json,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod serve
      HTTPS on 127.0.0.1:10250 with a self-signed certificate, CRI on /run/cryopod/cryopod.sock.
      Nobody can authenticate yet, so the HTTPS API is not opened: give --client-ca-file for it.
  cryopod serve --client-ca-file /etc/kubernetes/pki/ca.crt --address 0.0.0.0:10250
      Callers show a client certificate of that authority:
      curl -k --cert c.crt --key c.key -X POST https://NODE:10250/checkpoint/NS/POD/CONTAINER
  cryopod serve --container-runtime-endpoint unix:///run/containerd/containerd.sock \\
                --client-ca-file ca.crt
      The HTTPS API only, in front of containerd.
  cryopod serve --config /var/lib/kubelet/config.yaml --kubeconfig /etc/kubernetes/kubelet.conf \\
                --port 10260
      As this node's kubelet is set up, beside it: the API server says who callers are and what
      they may do. `cryopod config check` with the same flags explains what would be in force.

Flags win over the kubelet's file. With a file or a kubeconfig, what neither says is as in the
kubelet's file (any address, tokens and access reviewed by the API server), never as the kubelet's
flags alone would have it (anonymous callers, everything allowed).

SIGTERM and SIGINT end it once open calls are done. Containers go on without it, and a new `serve`
finds them again, also after SIGKILL.")]
pub(crate) struct ServeArgs {
    /// The kubelet's configuration (YAML or JSON; KubeletConfiguration, kubelet.config.k8s.io/v1beta1)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of more of it, laid over the file: *.conf, in the order of their names
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Our own settings (CryopodConfiguration, config.cryopod/v1alpha1); they can also be a second
    /// document in --config
    #[arg(long, value_name = "FILE")]
    pub(crate) cryopod_config: Option<PathBuf>,
    /// How to reach the API server, and who we are there; `in-cluster`: by the service account of
    /// the pod this runs in
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Address of the HTTPS API, and its port: 127.0.0.1:10250, or 0.0.0.0:10250 with --config or
    /// --kubeconfig
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) address: Option<Bind>,
    /// Port of the HTTPS API; 0: any
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Socket of the CRI server of the embedded runtime
    #[arg(long, env = "CRYOPOD_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Folder whose `checkpoints` folder takes the archives; /var/lib/kubelet unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) root_dir: Option<PathBuf>,
    /// Folder of the self-signed certificate; `pki` in the root folder unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// Folder of images, records and writable layers
    #[arg(long, default_value = "/var/lib/cryopod", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Folder of sockets and locks, gone after a reboot
    #[arg(long, default_value = "/run/cryopod", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Folder under which `cryopod run` keeps containers' logs
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    pub(crate) log_dir: PathBuf,
    /// Certificates (PEM) of authorities whose client certificates are accepted
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<String>,
    /// Serving certificate (PEM); without it a self-signed one is made
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert_file: Option<String>,
    /// Key (PEM) of the serving certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_private_key_file: Option<String>,
    /// Cipher suites of TLS 1.2, by Go's names, with commas between; all good ones unless given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) tls_cipher_suites: Option<Vec<String>>,
    /// Least version of TLS: VersionTLS12 (unless given) or VersionTLS13
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_min_version: Option<String>,
    /// Let callers without credentials in. Unless the API server decides what they may, anyone who
    /// reaches the port can then read the memory of every container
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          value_name = "BOOL")]
    pub(crate) anonymous_auth: Option<bool>,
    /// Let the API server say whose a bearer token is
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          value_name = "BOOL")]
    pub(crate) authentication_token_webhook: Option<bool>,
    /// How long that holds; 2m0s unless given
    #[arg(long, value_name = "DURATION")]
    pub(crate) authentication_token_webhook_cache_ttl: Option<String>,
    /// Who decides what a caller may: Webhook (the API server), AlwaysAllow, or ClientCertificates
    /// (whoever has one of the client CA)
    #[arg(long, value_name = "MODE")]
    pub(crate) authorization_mode: Option<String>,
    /// How long an access that was allowed holds; 5m0s unless given
    #[arg(long, value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_authorized_ttl: Option<String>,
    /// How long an access that was not allowed holds; 30s unless given
    #[arg(long, value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: Option<String>,
    /// Serve the checkpoint API, which is one of the kubelet's debugging handlers
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          value_name = "BOOL")]
    pub(crate) enable_debugging_handlers: Option<bool>,
    /// Features to turn on or off, as the kubelet takes them: Name=true,Name=false
    #[arg(long, value_name = "GATES")]
    pub(crate) feature_gates: Option<String>,
    /// Socket of another CRI runtime to use instead of the embedded one
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Policies (YAML) by which old archives are deleted; see `cryopod prune --help`. Without them
    /// none ever is
    #[arg(long, value_name = "FILE")]
    pub(crate) retention_policy: Option<PathBuf>,
    /// Checkpoints made at the same time on this node; more wait, one container's in any case.
    /// 4 unless given
    #[arg(long, value_name = "NUMBER")]
    pub(crate) checkpoints_at_once: Option<NonZeroUsize>,
    /// Space that a checkpoint must leave free where the archives are: bytes, or with K, M, G.
    /// 256M unless given
    #[arg(long, value_name = "BYTES")]
    pub(crate) checkpoints_free_reserve: Option<Bytes>,
    /// How long calls to the runtime may take; also the least, and the default, of a checkpoint.
    /// 2m0s unless given
    #[arg(long, value_name = "DURATION")]
    pub(crate) runtime_request_timeout: Option<String>,
    /// Name of this node in authorization; the host's name unless given
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Need the right to `create pods/checkpoint` in the pod's namespace, too, which a kubelet does
    /// not: the right to the node's endpoint alone opens every container of the node
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          value_name = "BOOL")]
    pub(crate) authorize_pods: Option<bool>,
    /// Version of the cluster, whose texts are spoken; 1.36 unless given
    #[arg(long, value_name = "VERSION")]
    pub(crate) kubernetes_version: Option<String>,
    /// Name of our cgroup below the roots of the hierarchies
    #[arg(long, default_value = "cryopod", value_name = "NAME")]
    pub(crate) cgroup_parent: String,
    /// File that takes a line of JSON for each request that was authenticated or refused. It is
    /// made private, and opened again on SIGHUP and when it was moved
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Port of health pages for everybody, over plain HTTP: /healthz and /readyz. None unless given:
    /// the one in a kubelet's file is the kubelet's own
    #[arg(long, value_name = "PORT")]
    pub(crate) healthz_port: Option<u16>,
    /// Address of the health pages for everybody; 127.0.0.1 unless given
    #[arg(long, value_name = "ADDR")]
    pub(crate) healthz_bind_address: Option<IpAddr>,
    /// OpenTelemetry collector that takes traces, by gRPC: http://127.0.0.1:4317
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// How log lines look; which ones, the variable CRYOPOD_LOG says (error, warn, info, debug)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

/// An address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

impl std::str::FromStr for Bind {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return Ok(Self { address: both.ip(), port: Some(both.port()) });
        }
        text.parse().map(|address| Self { address, port: None })
    }
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print what would be in force with these flags of `serve`, each value with its origin, and
    /// every reason why a start would fail. Nothing is changed.
    Check(Box<ConfigCheckArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod config check --config /var/lib/kubelet/config.yaml --kubeconfig kubelet.conf --port 10260
  cryopod config check --client-ca-file ca.crt --output json | jq '.problems[]'

The exit code is 0 when a start would succeed, as far as can be seen without one, and 1 otherwise.")]
pub(crate) struct ConfigCheckArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

/// Whose network a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Loopback only
    #[default]
    Private,
    /// The machine's
    Host,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod run --host-programs --name counter -- /bin/sh -c 'while :; do date; sleep 1; done'
  cryopod run --image ./redis-layout --name redis --network host --memory 512M
  cryopod run --image redis.tar --name redis --mount /srv/redis:/data -- redis-server --port 6400
  cryopod run --rootfs ./debian --name sh --user 1000:1000 --env LANG=C.UTF-8 -- /bin/sleep inf

The container's id is printed. It runs in the background: see `cryopod logs --follow`.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Name of the pod; the container's name unless given. A pod that is there is used
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Option<String>,
    /// Namespace of the pod
    #[arg(long, short, default_value = "default", value_name = "NAME")]
    pub(crate) namespace: String,
    /// Environment variable; without a value it is taken from here. Can be repeated
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Folder or file of the host to show in the container. Can be repeated
    #[arg(long, value_name = "HOST:CONTAINER[:ro]")]
    pub(crate) mount: Vec<String>,
    /// User, and group, as numbers or as names of the container's own /etc/passwd
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Working folder
    #[arg(long, short, value_name = "DIR", default_value = "")]
    pub(crate) workdir: String,
    /// Limit of memory: bytes, or with K, M, G (powers of 1024)
    #[arg(long, short, value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Limit of processors: 1.5 is one and a half
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<Cpus>,
    /// Limit of processes and threads
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: Option<u32>,
    /// Whose network to use
    #[arg(long, value_enum, default_value_t)]
    pub(crate) network: Network,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Label of the container. Can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
    /// Program and arguments; the image's own unless given
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Where the root filesystem comes from.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SourceArgs {
    /// An OCI image layout (folder), a tar of one or of `docker save`, or a stored image's name
    #[arg(long, value_name = "PATH|NAME")]
    pub(crate) image: Option<String>,
    /// A folder that holds a root filesystem; it is not written to
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// The host's own programs, read-only
    #[arg(long)]
    pub(crate) host_programs: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod ps
  cryopod ps --all --output json | jq '.[].id'")]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Those that do not run, too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only pods of this namespace
    #[arg(long, short, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod logs default/counter/counter --follow
  cryopod logs counter-id --tail 20 --timestamps")]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Whose: NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or an id's beginning
    pub(crate) target: Target,
    /// Wait for more, until the container ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Print the time of each line before it
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Which: NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or an id's beginning
    pub(crate) target: Target,
    /// Seconds between asking and killing; 0 kills at once
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) grace: u32,
}

#[derive(Args, Debug)]
#[command(after_help = "The pod goes with its last container.")]
pub(crate) struct RmArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Which: NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or an id's beginning
    pub(crate) target: Target,
    /// Kill it first if it runs
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod exec default/redis/redis -- redis-cli ping
  cryopod exec --timeout 5 default/web/app -- /bin/sh -c 'cat /proc/1/status'

The exit code is the command's own; 125 when cryopod itself failed.")]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Where: NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or an id's beginning
    pub(crate) target: Target,
    /// Kill the command after so many seconds; 0: never
    #[arg(long, short, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod checkpoint default/counter/counter
      The container goes on; the archive's path is printed.
  cryopod checkpoint default/redis/redis --stop --with-image --archive /mnt/usb/redis.tar
      A move: captured and stopped in one freeze, and the archive alone is enough elsewhere.

The archive holds everything the container's memory held: keys, tokens and passwords too.")]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Which: NAMESPACE/POD/CONTAINER, NAMESPACE/POD, or an id's beginning
    pub(crate) target: Target,
    /// Give up after so many seconds; the container goes on then
    #[arg(long, short, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: Option<u32>,
    /// Stop the container in the same freeze: two copies must not go on
    #[arg(long)]
    pub(crate) stop: bool,
    /// Put the container's image into the archive
    #[arg(long)]
    pub(crate) with_image: bool,
    /// Path of the archive; in the node's folder of checkpoints unless given
    #[arg(long, short, value_name = "PATH")]
    pub(crate) archive: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod list
  cryopod list --dir /mnt/usb --output json

PINNED archives are those that `cryopod prune` and the server's retention never delete.")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Folder to look in; the node's folder of checkpoints unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod prune --keep-per-container 3 --dry-run
      Show what would go, and why.
  cryopod prune --max-age 7d --min-free 10%
      Delete what is older than a week; then, while less than a tenth of the disk is free, the
      oldest of the rest, all of it if need be.
  cryopod prune --policy retention.yaml
      Policies per container, pod and namespace, in the words of checkpoint-restore-operator:
        globalPolicy: {maxCheckpointsPerContainer: 10, maxTotalSizePerNamespace: 50Gi}
        podPolicies: [{namespace: default, pod: counter, maxCheckpoints: 3}]
        nodePolicy: {minFree: 10%, maxAge: 30d}
      Options given besides go over the file's. `cryopod serve --retention-policy` keeps to the
      same file by itself.

The oldest go first, no more than needed. Pinned archives count and stay. What is being read goes
later, and what is no archive is left alone. The most specific policy of an archive is the only one
that counts, apart from nodePolicy, which is for all.")]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Delete nothing, only say what would be
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Folder to work on; the node's folder of checkpoints unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

/// What is kept. At least one limit, lest nothing to do be taken for everything done.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct LimitArgs {
    /// Keep so many archives of each container
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_per_container: Option<u64>,
    /// Keep so many archives of each pod
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_per_pod: Option<u64>,
    /// Keep so many archives of each namespace
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_per_namespace: Option<u64>,
    /// Keep so many archives in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep: Option<u64>,
    /// Keep no archive that is bigger, such as 10Gi
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<Size>,
    /// Keep no more than that in all, such as 200Gi
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_total_size: Option<Size>,
    /// Keep no archive that is older, such as 36h, 7d or 4w
    #[arg(long, value_name = "AGE")]
    pub(crate) max_age: Option<Age>,
    /// Keep so much of the disk free, such as 10% or 50Gi
    #[arg(long, value_name = "SHARE|SIZE")]
    pub(crate) min_free: Option<MinFree>,
    /// Keep to the policies of a YAML file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod pin checkpoint-counter_default-counter-2026-11-22T10:00:00Z.tar
  cryopod pin /mnt/usb/redis.tar

A pin is a file NAME.tar.keep beside the archive, the one that checkpoint-restore-operator looks for:
`touch` makes it as well, and what is written in it does not matter. Pinned archives count for every
limit and are never deleted by one.")]
pub(crate) struct PinArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Names of archives, as `cryopod list` has them, or paths
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archives: Vec<PathBuf>,
    /// Folder of those that are named without one; the node's folder of checkpoints unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cryopod restore /var/lib/kubelet/checkpoints/checkpoint-counter_default-counter-….tar
  cryopod restore redis.tar --pod redis-copy --mount /srv/redis-copy:/data

What the container may do comes from the archive, except what reaches out of it: mounts of the host
and the host's network are given here, or not at all.")]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The archive
    pub(crate) archive: PathBuf,
    /// Name of the container; the archive's unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Name of the pod; the archive's unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Option<String>,
    /// Namespace of the pod; the archive's unless given
    #[arg(long, short, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Folder or file of the host to show in the container. Can be repeated
    #[arg(long, value_name = "HOST:CONTAINER[:ro]")]
    pub(crate) mount: Vec<String>,
    /// Whose network to use
    #[arg(long, value_enum, default_value_t)]
    pub(crate) network: Network,
    /// Let it run at once: large memory comes from the archive while it runs
    #[arg(long, conflicts_with = "eager")]
    pub(crate) lazy: bool,
    /// Let it run when all of its memory is there, as it is without any option
    #[arg(long)]
    pub(crate) eager: bool,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Leave the demo's folder in place and print its path
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) result: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CounterArgs {
    /// 32 hexadecimal digits that mark the counter's page of memory
    pub(crate) mark: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn anonymous_auth_is_off_unless_asked_for_by_name() {
        let anonymous = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Serve(args) => args.anonymous_auth,
            other => panic!("{other:?}"),
        };
        assert_eq!(anonymous(&["cryopod", "serve"]), None);
        assert_eq!(anonymous(&["cryopod", "serve", "--anonymous-auth"]), Some(true));
        assert_eq!(anonymous(&["cryopod", "serve", "--anonymous-auth=true"]), Some(true));
        assert_eq!(anonymous(&["cryopod", "serve", "--anonymous-auth=false"]), Some(false));
    }

    #[test]
    fn an_address_has_a_port_or_has_none() {
        let bind = |text: &str| text.parse::<Bind>().map(|bind| (bind.address, bind.port));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(bind("127.0.0.1:0"), Ok((loopback, Some(0))));
        assert_eq!(bind("127.0.0.1"), Ok((loopback, None)));
        assert_eq!(bind("[::1]:10250").unwrap().1, Some(10250));
        assert_eq!(bind("::1").unwrap().1, None);
        assert!(bind("localhost").is_err() && bind(":10250").is_err() && bind("").is_err());
    }

    #[test]
    fn run_wants_exactly_one_source() {
        let run = |more: &[&str]| {
            let base = ["cryopod", "run", "--name", "c"];
            Cli::try_parse_from(base.iter().chain(more)).map(drop)
        };
        assert!(run(&[]).is_err());
        assert!(run(&["--host-programs"]).is_ok());
        assert!(run(&["--host-programs", "--rootfs", "/r"]).is_err());
        assert!(run(&["--image", "x", "--", "ls", "--color"]).is_ok());
    }
}
