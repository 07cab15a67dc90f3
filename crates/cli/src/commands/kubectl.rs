//! `kubectl checkpoint`: the pod's node is found by the API server, and asked through its proxy.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Serialize;

use crate::args::Output;
use crate::exit::Refused;
use crate::print;
use crate::quantity::bytes_text;
use crate::remote::{self, KubectlArgs, Remote, RemoteError, Wanted};

/// kubectl's own annotation for the container that is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What was made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    node: &'a str,
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    /// On the node.
    location: &'a str,
}

pub(super) async fn run(args: &KubectlArgs) -> anyhow::Result<()> {
    let mut config = config(args).await?;
    // A checkpoint must not be taken twice because the first answer was slow.
    config.default_retry = false;
    let namespace = match &args.namespace {
        Some(namespace) => namespace.clone(),
        None => config.default_namespace.clone(),
    };
    let client = kube::Client::try_from(config).context("prepare TLS")?;
    let pod = Api::<Pod>::namespaced(client.clone(), &namespace)
        .get(&args.pod)
        .await
        .map_err(|error| explain(error, &namespace, &args.pod))?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).ok_or_else(|| {
        let reason = format!("pod {namespace}/{} is on no node yet", args.pod);
        Refused { reason }
    })?;
    let container = container(&pod, args.container.as_deref())?;
    let node = match args.port {
        Some(port) => format!("{node}:{port}"),
        None => node,
    };
    let remote = Remote::behind(client, &node);
    let wanted = Wanted {
        namespace: namespace.clone(),
        pod: args.pod.clone(),
        container: container.clone(),
        timeout: args.timeout,
    };
    let location = remote::take(&remote, &wanted).await.map_err(cure)?;
    if args.result.output == Output::Json {
        print::json(&Made {
            node: &node,
            namespace: &namespace,
            pod: &args.pod,
            container: &container,
            location: &location,
        })?;
    } else {
        print::line(&location)?;
        print::note(format_args!(
            "on node {node}; it holds every secret of the container's memory"
        ));
    }
    if let Some(target) = &args.download {
        let name = location.rsplit('/').next().unwrap_or_default();
        let bytes = remote::download(&remote, name, target)
            .await
            .context("the archive is on the node, but could not be fetched")?;
        print::note(format_args!("{} in {}", bytes_text(bytes), target.display()));
    }
    Ok(())
}

async fn config(args: &KubectlArgs) -> anyhow::Result<kube::Config> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)
            .with_context(|| format!("--kubeconfig {}", path.display()))?,
        None => Kubeconfig::read().context("no kubeconfig: give --kubeconfig")?,
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .context("the kubeconfig says nobody to ask")
}

/// The container that is meant: kubectl's rule.
fn container(pod: &Pod, given: Option<&str>) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(name) = annotations.and_then(|all| all.get(DEFAULT_CONTAINER)) {
        return Ok(name.clone());
    }
    let spec = pod.spec.as_ref().context("the pod has no containers")?;
    let names: Vec<&str> = spec.containers.iter().map(|one| one.name.as_str()).collect();
    let first = names.first().context("the pod has no containers")?;
    if names.len() > 1 {
        print::note(format_args!("container {first} of {}: give -c for another", names.join(", ")));
    }
    Ok((*first).to_owned())
}

fn explain(error: kube::Error, namespace: &str, pod: &str) -> anyhow::Error {
    let server = "the API server".to_owned();
    let error = match error {
        kube::Error::Api(status) => RemoteError::Refused {
            server,
            status: http::StatusCode::from_u16(status.code).unwrap_or_default(),
            detail: status.message,
        },
        source => RemoteError::Unreachable { server, source },
    };
    anyhow::Error::new(error).context(format!("find pod {namespace}/{pod}"))
}

/// The refusal that a default cluster gives, with what to do about it.
fn cure(error: anyhow::Error) -> anyhow::Error {
    let Some(RemoteError::Refused { status, detail, .. }) = error.downcast_ref() else {
        return error;
    };
    if status.as_u16() == 403 && detail.contains("checkpoint") {
        return error.context(
            "the node does not let the API server take checkpoints: bind its user (such as \
             kube-apiserver-kubelet-client) to a ClusterRole with `create` on nodes/checkpoint",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], annotation: Option<&str>) -> Pod {
        let containers: Vec<_> =
            containers.iter().map(|name| serde_json::json!({ "name": name })).collect();
        let mut pod = serde_json::json!({
            "metadata": { "name": "p" }, "spec": { "containers": containers }
        });
        if let Some(name) = annotation {
            pod["metadata"]["annotations"] = serde_json::json!({ DEFAULT_CONTAINER: name });
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_container_is_the_one_kubectl_would_take() {
        assert_eq!(container(&pod(&["a", "b"], None), Some("x")).unwrap(), "x");
        assert_eq!(container(&pod(&["a", "b"], Some("b")), None).unwrap(), "b");
        assert_eq!(container(&pod(&["a", "b"], None), None).unwrap(), "a");
        assert!(container(&pod(&[], None), None).is_err());
    }
}
