//! `describe`: what an archive says of itself.

use anyhow::Context as _;
use cryopod_kubelet::Store;
use serde_json::Value;

use super::archives_folder;
use crate::args::Output;
use crate::print;
use crate::quantity::bytes_text;
use crate::remote::{DescribeArgs, Remote, segment};

pub(super) async fn run(args: &DescribeArgs) -> anyhow::Result<()> {
    let described: Value = match Remote::open(&args.server)? {
        Some(remote) => {
            remote.get(&format!("/cryopod/v1/archives/{}", segment(&args.archive))).await?
        }
        None => {
            let folder = archives_folder(&args.connection, args.dir.as_deref()).await?;
            let store = Store::at(folder)?;
            let described = cryopod_kubelet::api::describe(&store, &args.archive).await?;
            serde_json::to_value(described).context("write the description as JSON")?
        }
    };
    if args.result.output == Output::Json {
        return print::json(&described);
    }
    for (label, text) in lines(&described) {
        print::line(format_args!("{label:<12} {text}"))?;
    }
    Ok(())
}

/// What is there, for people.
fn lines(described: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let bytes = |value: &Value| value.as_u64().map(bytes_text);
    let flag = |value: &Value| Some(if value.as_bool()? { "yes" } else { "no" }.to_owned());
    let identity = &described["identity"];
    let whose = ["namespace", "pod", "container"].map(|key| identity[key].as_str());
    let whose = match whose {
        [Some(namespace), Some(pod), Some(container)] => {
            Some(format!("{namespace}/{pod}/{container}"))
        }
        _ => None,
    };
    let dump = &described["dump"];
    let entries = described["entries"].as_array().map(|all| {
        let more = described["entriesLeftOut"].as_u64().unwrap_or(0);
        (all.len() as u64 + more).to_string()
    });
    let rows = [
        ("archive", text(&described["path"])),
        ("container", whose),
        ("size", bytes(&described["bytes"])),
        ("finished", text(&described["finishedAt"])),
        ("taken", text(&described["checkpointedAt"])),
        ("made by", text(&described["engine"])),
        ("image", text(&described["image"])),
        ("pinned", flag(&described["pinned"])),
        ("in use", flag(&described["inUse"])),
        ("memory", bytes(&described["memoryBytes"])),
        ("changed", bytes(&described["rootfsBytes"])),
        ("frozen", dump["frozenMicros"].as_u64().map(print::micros)),
        ("tasks", dump["tasks"].as_u64().map(|count| count.to_string())),
        ("entries", entries),
        ("digest", text(&described["digest"])),
        ("unreadable", text(&described["unreadable"])),
    ];
    let notes = dump["notes"].as_array().into_iter().flatten();
    let notes = notes.filter_map(|note| Some(("note", note.as_str()?.to_owned())));
    rows.into_iter().filter_map(|(label, text)| Some((label, text?))).chain(notes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_shown() {
        let described = serde_json::json!({
            "path": "/a.tar", "bytes": 2048, "pinned": true,
            "identity": { "namespace": "n", "pod": "p", "container": "c" },
            "entries": [{}, {}], "entriesLeftOut": 3,
            "dump": { "frozenMicros": 1250, "notes": ["x"] },
        });
        let shown = lines(&described);
        let text = |label: &str| {
            shown.iter().find(|(one, _)| *one == label).map(|(_, text)| text.as_str())
        };
        assert_eq!(text("archive"), Some("/a.tar"));
        assert_eq!(text("container"), Some("n/p/c"));
        assert_eq!(text("pinned"), Some("yes"));
        assert_eq!(text("frozen"), Some("1.2 ms"));
        assert_eq!(text("entries"), Some("5"));
        assert_eq!(text("note"), Some("x"));
        assert_eq!(text("digest"), None);
        assert_eq!(lines(&serde_json::json!({})), []);
    }
}
