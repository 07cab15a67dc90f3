//! What makes a refused request an allowed one: commands to copy from the log.

use std::fmt::Write as _;

use super::Attributes;
use crate::authn::ANONYMOUS;

/// The user an API server of kubeadm is to kubelets, on behalf of everybody who uses its proxy.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The role and the binding that are missing, as `kubectl` commands in one line. The role may be
/// there (then the first command says so, and the second is what is missing): names are those of
/// the manifests that come with this program.
pub(super) fn rbac(attributes: &Attributes) -> String {
    let Attributes { user, verb, resource, subresource, namespace, .. } = attributes;
    if verb.is_empty() {
        return "none: the method has no verb that could be granted".to_owned();
    }
    let what = match subresource {
        &"" => (*resource).to_owned(),
        _ => format!("{resource}/{subresource}"),
    };
    let role = match (*verb, &*what) {
        ("create", "nodes/checkpoint") => "cryopod:checkpointer".to_owned(),
        ("create", "pods/checkpoint") => "cryopod:pod-checkpointer".to_owned(),
        _ => format!("cryopod:{verb}-{}", what.replace('/', "-")),
    };
    let binding = match &*user.name {
        API_SERVER => "cryopod:apiserver-kubelet-client".to_owned(),
        name => quoted(&format!("{role}:{}", name_part(name))),
    };
    let account = user.name.strip_prefix(SERVICE_ACCOUNT);
    let subject = match account.filter(|account| account.split(':').count() == 2) {
        Some(account) => format!("--serviceaccount={}", quoted(account)),
        None => format!("--user={}", quoted(&user.name)),
    };
    let mut text = format!("kubectl create clusterrole {role} --verb={verb} --resource={what}; ");
    // Writing to a String cannot fail.
    let _ = if namespace.is_empty() {
        write!(text, "kubectl create clusterrolebinding {binding} --clusterrole={role} {subject}")
    } else {
        let namespace = quoted(namespace);
        write!(
            text,
            "kubectl create rolebinding {binding} --namespace={namespace} --clusterrole={role} \
             {subject}"
        )
    };
    if user.name == API_SERVER {
        text.push_str(
            "  # this user is the API server, for whoever uses its node proxy: kubeadm 1.33.12, \
             1.34.8, 1.35.5, 1.36.1 and later give it no right to nodes/checkpoint; with it, \
             whoever may create nodes/proxy can checkpoint every container of a node",
        );
    }
    if user.name == ANONYMOUS {
        text.push_str("  # not advised: this user is everybody who reaches the port");
    }
    text
}

/// A name's characters that may be in the name of an RBAC object.
fn name_part(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-' | '@');
    name.chars().map(|c| if plain(c) { c } else { '-' }).collect()
}

/// A word for bash; names come from certificates and from the API server, and may hold anything.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:@/=+,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = "$'".to_owned();
    for c in word.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '\'' | '\\' => write!(text, "\\{c}"),
            ' '..='~' => write!(text, "{c}"),
            c if c.is_alphanumeric() => write!(text, "{c}"),
            // Everything that a terminal or a reader of the log could take for something else.
            c => write!(text, "\\U{:08x}", u32::from(c)),
        };
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::User;

    fn cure(user: &str, resource: &'static str, namespace: &str) -> String {
        rbac(&Attributes {
            user: User { name: user.to_owned(), ..User::anonymous() },
            verb: "create",
            api_group: "",
            api_version: "v1",
            resource,
            subresource: "checkpoint",
            name: "x".to_owned(),
            namespace: namespace.to_owned(),
            resource_request: true,
            path: String::new(),
        })
    }

    #[test]
    fn the_cure_is_a_role_and_a_binding_for_the_user() {
        assert_eq!(
            cure("alice", "nodes", ""),
            "kubectl create clusterrole cryopod:checkpointer --verb=create \
             --resource=nodes/checkpoint; kubectl create clusterrolebinding \
             cryopod:checkpointer:alice --clusterrole=cryopod:checkpointer --user=alice"
        );
        let account = cure("system:serviceaccount:tools:robot", "nodes", "");
        assert!(account.ends_with(" --serviceaccount=tools:robot"), "{account}");
        let pods = cure("alice", "pods", "shop");
        let binding = "; kubectl create rolebinding cryopod:pod-checkpointer:alice \
                       --namespace=shop --clusterrole=cryopod:pod-checkpointer --user=alice";
        assert!(pods.ends_with(binding), "{pods}");
    }

    #[test]
    fn the_api_server_is_named_with_what_its_right_would_mean() {
        let text = cure("kube-apiserver-kubelet-client", "nodes", "");
        assert!(
            text.contains("--user=kube-apiserver-kubelet-client  # this user is the API server")
        );
        assert!(text.contains("whoever may create nodes/proxy can checkpoint every container"));
        assert!(cure("system:anonymous", "nodes", "").contains("not advised"));
    }

    #[test]
    fn a_name_breaks_neither_the_shell_nor_the_log() {
        let text = cure("a'b $(reboot)\n\u{202e}é", "nodes", "");
        assert!(text.ends_with(r"--user=$'a\'b $(reboot)\U0000000a\U0000202eé'"), "{text}");
        assert!(text.contains("cryopod:checkpointer:a-b---reboot---- "), "{text}");
    }

    #[test]
    fn a_method_without_a_verb_has_no_cure() {
        let attributes = Attributes {
            verb: "",
            user: User::anonymous(),
            api_group: "",
            api_version: "v1",
            resource: "nodes",
            subresource: "checkpoint",
            name: String::new(),
            namespace: String::new(),
            resource_request: true,
            path: String::new(),
        };
        assert!(rbac(&attributes).starts_with("none"));
    }
}
