//! What others see in a real archive: tar, checkpointctl and crit of the sid tree read it without an error, and find the
//! processes that ran.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::stand::{Stand, inside, tree};

/// Installs crit when the tree lacks it.
const CRIT: &str = "set -eu\ncommand -v crit >/dev/null && python3 -c 'import pycriu' && exit\n\
                    export DEBIAN_FRONTEND=noninteractive\n\
                    apt-get update -q && apt-get install -y -q --no-install-recommends python3-pycriu criu";

/// Unpacks the archive's images and prints each as crit shows it, after its name. Pages have no form.
const SHOW: &str = r#"set -eu
cd "$2"; tar xf "$1" checkpoint
for image in checkpoint/*.img; do
    case $image in checkpoint/pages-*) continue;; esac
    echo "== ${image#checkpoint/}"
    crit show "$image"
done
"#;

/// Reads the archive of a container with these programs by every tool.
pub(crate) fn check(
    stand: &Stand<'_>,
    archive: &Path,
    name: &str,
    programs: &[&str],
) -> Result<()> {
    tree(stand.sid, CRIT, &[])?;
    guarded(archive)?;
    let path = inside(archive)?;
    let path = path.as_os_str();
    list(&tree(stand.sid, "tar tvf \"$1\"", &[path])?)?;
    let scratch = tempfile::Builder::new().prefix("cryopod-e2e-").tempdir()?;
    let shown = tree(stand.sid, SHOW, &[path, inside(scratch.path())?.as_os_str()])?;
    let zombies = images(&shown, programs)?;
    let mut questions = vec![("show", vec![name, "CRI-O", "cryopod"])];
    let mounts = ["Destination: /proc", "Destination: /dev/shm"];
    if zombies == 0 {
        let tree = ["Process tree", "[1]"].iter().chain(programs);
        questions.push(("inspect --all", mounts.iter().chain(tree).copied().collect()));
        let sizes = ["MEMORY SIZE"].iter().chain(programs);
        questions.push(("memparse", sizes.copied().collect()));
    } else {
        // It looks for the memory of every process, which a zombie has none of, in criu's own archives either.
        println!("{name}: {zombies} zombies: checkpointctl cannot show the memory");
        questions.push(("inspect --stats --metadata --mounts", mounts.to_vec()));
    }
    for (words, wanted) in questions {
        let text = tree(stand.sid, &format!("checkpointctl {words} \"$1\""), &[path])?;
        for word in wanted {
            ensure!(text.contains(word), "checkpointctl {words} shows no {word:?}:\n{text}");
        }
    }
    Ok(())
}

/// The archive is root's alone, and so is its folder.
fn guarded(archive: &Path) -> Result<()> {
    let folder = archive.parent().context("the archive lies nowhere")?;
    for (path, mode) in [(archive, 0o600), (folder, 0o700)] {
        let meta = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        ensure!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()) == (mode, 0, 0),
            "{} has mode {:o} and is of {}:{}",
            path.display(),
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid()
        );
    }
    Ok(())
}

/// Every entry is root's, with names and kinds as CRI-O has them.
fn list(text: &str) -> Result<()> {
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (mode, owner) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        ensure!(
            matches!(mode, "-rw-------" | "drwx------") && matches!(owner, "0/0" | "root/root"),
            "tar lists {line:?}"
        );
    }
    for name in ["config.dump", "spec.dump", "checkpoint/", "checkpoint/inventory.img"] {
        let found = text.lines().any(|line| line.split_whitespace().next_back() == Some(name));
        ensure!(found, "tar lists no {name}:\n{text}");
    }
    Ok(())
}

/// What crit shows fits together: every process of the tree has its core and its memory, every program is there. Gives
/// the number of zombies.
fn images(shown: &str, programs: &[&str]) -> Result<usize> {
    let mut names = Vec::new();
    let mut pids = Vec::new();
    let mut files = Vec::new();
    let mut zombies = Vec::new();
    for part in shown.split("== ").filter(|part| !part.trim().is_empty()) {
        let (file, text) = part.split_once('\n').context("crit shows nothing")?;
        let image: Value = serde_json::from_str(text).with_context(|| format!("crit: {file}"))?;
        let entries = image["entries"].as_array().with_context(|| format!("{file}: no entries"))?;
        if file == "pstree.img" {
            pids.extend(entries.iter().filter_map(|entry| entry["pid"].as_u64()));
        }
        if file.starts_with("core-") {
            let comm = entries.first().and_then(|entry| entry["tc"]["comm"].as_str());
            names.extend(comm.map(str::to_owned));
            // crit has no name for this state.
            if entries.first().is_some_and(|entry| entry["tc"]["task_state"] == 2) {
                zombies.push(file.to_owned());
            }
        }
        files.push(file.to_owned());
    }
    ensure!(pids.contains(&1), "crit shows no process 1 in {pids:?}");
    for pid in pids {
        let zombie = zombies.contains(&format!("core-{pid}.img"));
        for kind in if zombie { &["core"][..] } else { &["core", "mm", "pagemap", "ids", "fs"] } {
            let file = format!("{kind}-{pid}.img");
            ensure!(files.contains(&file), "{file} is missing among {files:?}");
        }
    }
    for program in programs {
        ensure!(names.iter().any(|name| name == program), "crit shows no {program}: {names:?}");
    }
    Ok(zombies.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_with_an_open_entry_is_refused() {
        let good = "-rw------- 0/0 1 2026-01-01 00:00 config.dump\n\
                    -rw------- 0/0 1 2026-01-01 00:00 spec.dump\n\
                    drwx------ 0/0 0 2026-01-01 00:00 checkpoint/\n\
                    -rw------- 0/0 1 2026-01-01 00:00 checkpoint/inventory.img\n";
        list(good).unwrap();
        assert!(
            list(&good.replace(
                "-rw------- 0/0 1 2026-01-01 00:00 spec",
                "-rw-r--r-- 0/0 1 2026-01-01 00:00 spec"
            ))
            .is_err()
        );
        assert!(list(&good.replace("inventory", "inventary")).is_err());
    }

    #[test]
    fn a_process_without_its_memory_is_noticed() {
        let part = |name: &str, entry: &str| {
            format!("== {name}\n{{\"magic\":\"X\",\"entries\":[{entry}]}}\n")
        };
        let mut shown =
            part("pstree.img", "{\"pid\":1}") + &part("core-1.img", "{\"tc\":{\"comm\":\"sh\"}}");
        for kind in ["mm", "ids", "fs"] {
            shown += &part(&format!("{kind}-1.img"), "");
        }
        assert!(images(&shown, &["sh"]).unwrap_err().to_string().contains("pagemap-1.img"));
        shown += &part("pagemap-1.img", "");
        images(&shown, &["sh"]).unwrap();
        assert!(images(&shown, &["redis-server"]).is_err());
    }
}
