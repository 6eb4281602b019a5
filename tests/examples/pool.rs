//! The examples do what they say: run as the programs they are, with what they print looked at.

use crate::program::*;

#[test]
fn verbs_shows_who_ran_where() {
    let ran = Ran::of(&mut example("verbs"));
    let expected = "\
The pool is full: 1 of 1 slots.

try_schedule        refused: the pool is full
    refused 0 -> 1
schedule_always     overflow: beyond the size, and counted
    running 1 of 1, overflow 1, in caller 0, waiting 0
    in the caller's task: no
try_go              in caller: in its task, which slows down with the pool
    running 1 of 1, overflow 0, in caller 1, waiting 0
    in the caller's task: yes
    finished when try_go returned: yes
schedule, dropped   withdrawn: the job never runs
    waiting 1, then 0; withdrawn 1
schedule            waits: the caller goes on when the job has a slot
    running 1 of 1, overflow 0, in caller 0, waiting 1
anyway_go, dropped  committed: the job runs all the same
anyway_go           committed: await it to know that it has left the line
    running 1 of 1, overflow 0, in caller 0, waiting 3

Then the slot was given up, and the line moved, first come, first served:
    1. the holder was told to end
    2. the holder ended
    3. schedule's job ran
    4. the job of the dropped anyway_go ran
    5. the last anyway_go's job ran
    3. or 5. in the caller's task: no

Every job is accounted for: 8 submitted =
    6 completed + 1 refused + 1 withdrawn
";
    assert_eq!(ran.stdout(), expected);
    assert!(ran.status.success());
}

#[test]
fn fan_out_acknowledges_what_succeeded() {
    let ran = Ran::of(&mut example("fan_out"));
    let stdout = ran.stdout();
    let (messages, totals) = stdout.split_once("messages: ").expect("the totals come last");
    // They are done side by side and may end in any order.
    let mut messages: Vec<_> = messages.lines().collect();
    messages.sort_unstable();
    let expected = [
        "message 1: ack",
        "message 2: ack",
        "message 3: ack",
        "message 4: nack, part 2: no-such-box refused the mail",
        "message 5: ack",
        "message 6: ack",
        "message 7: nack, part 4: the job panicked: cannot parse poison",
        "message 8: ack",
        "message 9: ack",
    ];
    assert_eq!(messages, expected);
    // How many parts the failures of others came in time to cancel is up to the scheduler.
    assert!(totals.starts_with("7 acknowledged, 2 not\nparts: 47 submitted, "), "{totals}");
    assert!(totals.contains(", 1 panicked, "), "{totals}");
    assert!(ran.status.success());
}

#[cfg(target_os = "linux")]
mod checksum {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    /// A million bytes of seven.
    const LARGE: &str = "30bd6d97affa9196b48cf4f86569c1a6a2d2fcf7d8c25771526f5e5596e7ae2e";

    #[test]
    fn prints_what_sha256sum_accepts() {
        let dir = Scratch::new("accepts");
        dir.write("z-last", b"abc");
        dir.write("empty", b"");
        dir.write("large", &[7; 1_000_000]);
        dir.write("sub/deeper/file", b"abc");
        dir.write("sub/a", b"abc");
        dir.write("a-sub/file", b"abc");
        for name in [&b"back\\slash"[..], b"new\nline", b"return\r", b"not\xffutf-8", b" \" *"] {
            dir.write(OsStr::from_bytes(name), b"abc");
        }
        // None of these is a regular file, or may be followed.
        fs::create_dir(dir.0.join("nothing")).unwrap();
        symlink("..", dir.0.join("sub/loop")).unwrap();
        symlink("z-last", dir.0.join("link")).unwrap();
        symlink("nowhere", dir.0.join("dangling")).unwrap();
        let _socket = UnixListener::bind(dir.0.join("socket")).unwrap();

        let ran = dir.checksum(".");
        assert_eq!((ran.stderr().as_str(), ran.status.code()), ("", Some(0)));
        let expected = [
            format!("{ABC}  ./ \" *").into_bytes(),
            format!("\\{ABC}  ./back\\\\slash").into_bytes(),
            format!("{EMPTY}  ./empty").into_bytes(),
            format!("{LARGE}  ./large").into_bytes(),
            format!("\\{ABC}  ./new\\nline").into_bytes(),
            [ABC.as_bytes(), b"  ./not\xffutf-8"].concat(),
            format!("\\{ABC}  ./return\\r").into_bytes(),
            format!("{ABC}  ./z-last").into_bytes(),
            format!("{ABC}  ./a-sub/file").into_bytes(),
            format!("{ABC}  ./sub/a").into_bytes(),
            format!("{ABC}  ./sub/deeper/file").into_bytes(),
        ];
        assert_eq!(lines(&ran), expected);

        // The directory by default, and as it was given otherwise.
        let by_default = Ran::of(example("checksum").current_dir(&dir.0));
        assert_eq!(lines(&by_default), expected);
        assert_eq!(lines(&dir.checksum("sub/"))[0], format!("{ABC}  sub/a").into_bytes());
        dir.check(&ran.stdout);
    }

    #[test]
    fn keeps_the_order_of_many_files() {
        let dir = Scratch::new("order");
        let names: Vec<_> = (0..3_000).map(|n| format!("d/{:02}/{n:04}", n / 1_500)).collect();
        for name in &names {
            // Of very different sizes, so that they do not end in the order they began.
            let size = if name.ends_with("01") { 300_000 } else { 10 };
            dir.write(name, &vec![b'x'; size]);
        }
        let ran = dir.checksum("d");
        let lines = ran.stdout();
        let printed = lines.lines().map(|line| line.split_once("  ").unwrap().1);
        assert!(printed.eq(names.iter()), "in the order of their names");
        assert!(ran.status.success());
        dir.check(&ran.stdout);
    }

    #[test]
    fn tells_what_it_cannot_read_and_goes_on() {
        // No process can open a path of 4,096 bytes or more, not even as root. To make such paths,
        // the test renames directories with short names to long ones, the inner ones first.
        let dir = Scratch::new("unreadable");
        let deep = |levels: usize| PathBuf::from("deep").join("n/".repeat(levels));
        let long = "l".repeat(255);
        dir.write(deep(15).join(&long), b"too far");
        dir.write(deep(15).join("near"), b"abc");
        fs::create_dir(dir.0.join(deep(15)).join("m".repeat(255))).unwrap();
        dir.write("deep/z/file", b"abc");
        for level in (1..=15).rev() {
            let inner = dir.0.join(deep(level));
            fs::rename(&inner, inner.with_file_name(&long)).unwrap();
        }

        let ran = dir.checksum("deep");
        let near = format!("deep/{}near", format!("{long}/").repeat(15));
        assert_eq!(ran.stdout(), format!("{ABC}  {near}\n{ABC}  deep/z/file\n"));
        let errors = ran.stderr();
        assert_eq!(errors.lines().count(), 2, "one for the file, one for the directory: {errors}");
        for line in errors.lines() {
            assert!(line.starts_with("checksum: \"deep/lll"), "{line}");
            assert!(line.contains("File name too long"), "{line}");
        }
        assert_eq!(ran.status.code(), Some(1));
        dir.check(&ran.stdout);

        symlink("nowhere", dir.0.join("dangling")).unwrap();
        let ran = dir.checksum("dangling");
        assert_eq!((ran.stdout().as_str(), ran.status.code()), ("", Some(1)));
        assert!(ran.stderr().starts_with("checksum: \"dangling\": No such file"));
    }

    #[test]
    fn ends_quietly_when_nobody_reads() {
        let dir = Scratch::new("pipe");
        (0..2_000).for_each(|n| dir.write(format!("{n}"), b"abc"));
        let mut child = spawn(example("checksum").current_dir(&dir.0));
        drop(child.stdout.take());
        let ran = Ran::to_the_end(child);
        assert_eq!((ran.stderr().as_str(), ran.status.code()), ("", Some(0)));
    }

    fn lines(ran: &Ran) -> Vec<&[u8]> {
        ran.stdout
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| &line[..line.len() - 1])
            .collect()
    }

    /// A directory of its own for each test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("millpond-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: impl AsRef<Path>, content: &[u8]) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn checksum(&self, directory: impl AsRef<OsStr>) -> Ran {
            Ran::of(example("checksum").arg(directory).current_dir(&self.0))
        }

        /// Has `sha256sum` look at what was printed.
        fn check(&self, sums: &[u8]) {
            self.write("SHA256SUMS", sums);
            let mut sha256sum = Command::new("sha256sum");
            sha256sum.args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&self.0);
            let ran = Ran::of(&mut sha256sum);
            assert!(ran.status.success(), "{}{}", ran.stdout(), ran.stderr());
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
