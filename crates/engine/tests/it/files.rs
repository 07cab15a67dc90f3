use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use cryopod_testkit::{Running, reap, victim};

use crate::{program, victims::ALONE};

/// Dumps a victim and ends it; gives its folder, and where it runs.
fn dumped(name: &str, images: &Path, base: &Path) -> Running {
    fs::create_dir(images).expect("a fresh folder");
    let mut running = Running::ready(victim(name), base, &[]).expect("ready");
    program::dump(running.pid(), images, false).expect("dumped");
    running.kill();
    reap();
    running
}

fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|m| m.modified()).expect("a file has a time")
}

fn set_changed(path: &Path, time: SystemTime) {
    let file = fs::File::options().write(true).open(path);
    file.and_then(|f| f.set_modified(time)).expect("a time can be set");
}

#[test]
fn a_mapped_file_with_other_content_of_the_same_size_is_refused_by_name() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cryopod_testkit::adopt().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    // It has mapped the file `file` and closed it.
    let running = dumped("memory", &images, &folder.path().join("run"));
    let file = running.place().work().join("file");
    let (bytes, time) = (fs::read(&file).unwrap(), changed(&file));
    let other: Vec<u8> = bytes.iter().map(|b| !b).collect();
    fs::write(&file, other).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().size(), bytes.len() as u64);
    let refusal = program::restore(&images).unwrap_err();
    assert!(refusal.contains(file.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains("last changed"), "{refusal}");
    assert!(running.place().processes().is_empty());

    fs::write(&file, &bytes[1..]).unwrap();
    set_changed(&file, time);
    let refusal = program::restore(&images).unwrap_err();
    assert!(refusal.contains(file.to_str().unwrap()) && refusal.contains("bytes"), "{refusal}");

    fs::remove_file(&file).unwrap();
    let refusal = program::restore(&images).unwrap_err();
    assert!(refusal.contains(file.to_str().unwrap()) && refusal.contains("not there"), "{refusal}");

    // The file of the checkpoint again: whole seconds of its time are enough.
    fs::write(&file, &bytes).unwrap();
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    set_changed(&file, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since));
    program::restore(&images).unwrap();
    running.place().go().unwrap();
    let verdict = running.place().await_verdict(running.pid(), std::time::Duration::from_secs(60));
    assert_eq!(verdict.unwrap(), cryopod_testkit::Verdict::Ok);
}

#[test]
fn an_executable_of_another_build_is_refused_by_name_before_anything_is_made() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cryopod_testkit::adopt().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let running = dumped("counter_static", &images, &folder.path().join("run"));
    let binary = running.place().executable();
    let (mut bytes, time) = (fs::read(&binary).unwrap(), changed(&binary));
    // Name size, content size, kind and name of the note; the build id follows.
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = bytes.windows(note.len()).position(|w| w == note).unwrap();
    bytes[at + note.len()] ^= 1;
    fs::write(&binary, bytes).unwrap();
    set_changed(&binary, time);
    let refusal = program::restore(&images).unwrap_err();
    assert!(refusal.contains(binary.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains("build"), "{refusal}");
    let left: Vec<_> = running.place().processes();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn too_large_an_unlinked_file_is_refused_by_name_and_its_program_goes_on() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let script = "head -c 68000000 /dev/zero >big; exec 3<big; rm big; echo up; exec sleep 60";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    cryopod_testkit::isolate(&mut command);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let refusal = program::dump(child.id(), &images, true).unwrap_err();
    let named = folder.path().join("big");
    assert!(refusal.contains(named.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains("descriptor 3") && refusal.contains("give it a name"), "{refusal}");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_controlling_terminal_is_refused_by_name_and_its_program_goes_on() {
    use rustix::pty;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let ours = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::CLOEXEC).unwrap();
    pty::grantpt(&ours).unwrap();
    pty::unlockpt(&ours).unwrap();
    let name = pty::ptsname(&ours, Vec::new()).unwrap();
    let terminal = fs::File::options().read(true).write(true).open(name.to_str().unwrap());
    // No descriptor is left of it.
    let script = "exec </dev/null >/dev/null 2>&1; exec sleep 60";
    let mut command = std::process::Command::new("setsid");
    command.args(["--ctty", "sh", "-c", script]).stdin(Stdio::from(terminal.unwrap()));
    let mut child = command.spawn().unwrap();
    let comm = format!("/proc/{}/comm", child.id());
    let begin = std::time::Instant::now();
    while fs::read_to_string(&comm).unwrap() != "sleep\n" {
        assert!(begin.elapsed().as_secs() < 20, "it does not start");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let refusal = program::dump(child.id(), &images, true).unwrap_err();
    assert!(refusal.contains("a controlling terminal"), "{refusal}");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
