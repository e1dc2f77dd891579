use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::archive::Owner;
use super::index::{Line, Sum, Type};
use super::*;
use crate::sources::testing::{Objects, cx, manifest_of};

const ID: &str = "20261123T061534123z-7k3f9q";

struct World {
    dir: TempDir,
    path: PathBuf,
    driver: FilesDriver,
    objects: Objects,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("live");
        std::fs::create_dir(&path).unwrap();
        let driver = FilesDriver::new("files", FilesSource { path: path.clone() });
        Self { dir, path, driver, objects: Objects::default() }
    }

    fn write(&self, relative: &str, content: &[u8]) {
        let path = self.path.join(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn dump(&self) -> SourceManifest {
        manifest_of("files", &self.driver.dump(&cx(), &self.objects, &[]).unwrap())
    }

    fn stage(&self, source: &SourceManifest, target: &Target) -> Result<Member> {
        self.driver.stage(&cx(), source, &self.objects, ID, target, &StageOptions::default())
    }

    fn beside(&self, source: &SourceManifest) -> Member {
        self.stage(source, &Target::Beside).unwrap()
    }

    fn verify(&self, member: &Member, source: &SourceManifest) -> Vec<String> {
        let verified = self.driver.verify(&cx(), member, source, &self.objects, &[]).unwrap();
        verified.findings.into_iter().map(|f| f.rule).collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Stages a backup made by hand: index lines and a tar of this content.
    fn stage_made(&self, lines: &[Line], archive: &[u8]) -> Result<Member> {
        let (mut index, mut sum) = (String::new(), Sum::default());
        for line in lines {
            let text = line.encode().unwrap();
            sum.add(line, &text);
            index.push_str(&text);
            index.push('\n');
        }
        self.stage_raw(index.into_bytes(), sum.facts(), archive)
    }

    fn stage_raw(&self, index: Vec<u8>, facts: FilesFacts, archive: &[u8]) -> Result<Member> {
        let source = SourceManifest {
            name: "files".into(),
            started_at_ms: 0,
            completed_at_ms: 0,
            objects: vec![
                self.objects.put("data", "data.tar", archive.to_vec()),
                self.objects.put("index", "index.jsonl", index),
            ],
            facts: SourceFacts::Files(facts),
        };
        self.stage(&source, &Target::Beside)
    }
}

fn hex_digest(content: &[u8]) -> Option<String> {
    use sha2::{Digest, Sha256};
    Some(hex::encode(Sha256::digest(content)))
}

fn root() -> Line {
    Line::new(b".", Type::Dir, 0, 0o755, 0, None, None)
}

fn dir(path: &str) -> Line {
    Line::new(path.as_bytes(), Type::Dir, 0, 0o755, 0, None, None)
}

fn file(path: &str, content: &[u8]) -> Line {
    Line::new(path.as_bytes(), Type::File, content.len() as u64, 0o644, 0, hex_digest(content), None)
}

fn link(path: &str, target: &str) -> Line {
    Line::new(path.as_bytes(), Type::Symlink, 0, 0o777, 0, None, Some(target.as_bytes()))
}

fn us() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

/// A tar of these lines, every file with the same content.
fn tar_of(lines: &[Line], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        archive::write_header(&mut out, line, us()).unwrap();
        if line.kind == Type::File {
            out.extend_from_slice(content);
            archive::pad(&mut out, content.len() as u64).unwrap();
        }
    }
    archive::finish(&mut out).unwrap();
    out
}

#[test]
fn a_directory_comes_back_whole_in_scratch_and_beside() {
    let world = World::new();
    world.write("a.txt", b"text");
    world.write("a/b.json", b"{}");
    world.write("a/empty", b"");
    world.write("large", &vec![7; 3_000_001]);
    world.write(&format!("{}/{}", "d".repeat(120), "f".repeat(200)), b"long");
    world.write("-rf \n\u{1b}[31m", b"odd name");
    std::fs::write(world.path.join(OsStr::from_bytes(b"not-utf8-\xff")), b"x").unwrap();
    symlink("a.txt", world.path.join("link")).unwrap();
    symlink("/etc/passwd", world.path.join("a/outward")).unwrap();
    symlink(format!("./{}/../x/", "y".repeat(150)), world.path.join("dangling")).unwrap();
    std::fs::hard_link(world.path.join("large"), world.path.join("second name")).unwrap();
    std::fs::set_permissions(world.path.join("a"), std::fs::Permissions::from_mode(0o2550)).unwrap();
    std::fs::set_permissions(world.path.join("a.txt"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    std::fs::set_permissions(&world.path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let time = SystemTime::UNIX_EPOCH - Duration::from_nanos(1_500_000_001);
    std::fs::File::open(world.path.join("a/empty")).unwrap().set_modified(time).unwrap();

    let dumped = world.driver.dump(&cx(), &world.objects, &[]).unwrap();
    assert_eq!(dumped.findings.iter().map(|f| f.rule.as_str()).collect::<Vec<_>>(), ["set-id"]);
    let source = manifest_of("files", &dumped);
    let facts = facts_of(&source).unwrap();
    assert_eq!((facts.entries, facts.files, facts.bytes), (14, 8, 6_000_021));

    let scratch = tempfile::tempdir().unwrap();
    let target = Target::Scratch { dir: scratch.path().into(), relative: ".app/files".into() };
    for target in [target, Target::Beside] {
        let member = world.stage(&source, &target).unwrap();
        let verified = world.driver.verify(&cx(), &member, &source, &world.objects, &[]).unwrap();
        assert_eq!((verified.findings, verified.files), (vec![], 8));
        let at = |name: &str| std::fs::symlink_metadata(Path::new(&member.place).join(name)).unwrap();
        assert_eq!(at("a").mode() & 0o7777, 0o2550);
        assert_eq!(at("a.txt").mode() & 0o7777, 0o711, "set-user-id is not kept");
        assert_eq!(at(".").mode() & 0o7777, 0o700);
        assert_eq!((at("a/empty").mtime(), at("a/empty").mtime_nsec()), (-2, 499_999_999));
        assert_eq!(std::fs::read_link(Path::new(&member.place).join("a/outward")).unwrap(), Path::new("/etc/passwd"));
        assert!(world.stage(&source, &target).unwrap_err().message.contains("exists already"));
        world.driver.discard(&cx(), &member).unwrap();
        world.driver.discard(&cx(), &member).unwrap();
    }
    assert_eq!(world.names(), ["live"]);
}

#[test]
fn the_tar_is_one_that_tar_reads() {
    let world = World::new();
    world.write("a/b", b"content");
    world.write(&format!("{}/{}", "d".repeat(120), "f".repeat(200)), b"long");
    symlink("t".repeat(150), world.path.join("long-target")).unwrap();
    let source = world.dump();
    let archive = world.dir.path().join("data.tar");
    std::fs::write(&archive, world.objects.get(&source.objects[0].key)).unwrap();
    let by_hand = world.dir.path().join("by-hand");
    std::fs::create_dir(&by_hand).unwrap();
    let done = std::process::Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&by_hand).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    let member = Member {
        source: "files".into(),
        place: by_hand.display().to_string(),
        identity: exchange::identity(&by_hand).unwrap().unwrap(),
        beside: false,
        data_only: None,
    };
    // Content, names, modes and times to the nanosecond.
    assert_eq!(world.verify(&member, &source), Vec::<String>::new());
}

#[test]
fn the_index_is_sorted_by_whole_paths_and_frozen() {
    let world = World::new();
    for name in ["b", "a.txt", "a/c", "a/b/x", "a-b", "a0"] {
        world.write(name, b"abc");
    }
    let source = world.dump();
    let index = String::from_utf8(world.objects.get(&source.objects[1].key)).unwrap();
    let paths: Vec<String> = index
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths, [".", "a", "a-b", "a.txt", "a/b", "a/b/x", "a/c", "a0", "b"]);
    let line = Line::new(b"a/b", Type::File, 3, 0o100600, 1_700_000_000_123_456_789, hex_digest(b"abc"), None);
    assert_eq!(
        line.encode().unwrap(),
        r#"{"path":"a/b","type":"file","size":3,"mode":"0600","mtime-ns":"1700000000123456789","sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#
    );
    let odd = Line::new(b"\xff", Type::Symlink, 0, 0o777, -1, None, Some(b"t"));
    assert_eq!(
        odd.encode().unwrap(),
        "{\"path\":\"\u{fffd}\",\"path-bytes\":\"ff\",\"type\":\"symlink\",\"size\":0,\"mode\":\"0777\",\"mtime-ns\":\"-1\",\"target\":\"t\"}"
    );
}

#[test]
fn what_is_no_file_is_left_out_and_said() {
    let world = World::new();
    world.write("file", b"x");
    let _socket = std::os::unix::net::UnixListener::bind(world.path.join("socket")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(world.path.join("pipe")).status().unwrap();
    assert!(made.success());
    world.write(&format!(".db.sqlite.lifeboat-{ID}"), b"a candidate of a database in here");
    let dumped = world.driver.dump(&cx(), &world.objects, &[]).unwrap();
    let rules: Vec<&str> = dumped.findings.iter().map(|f| f.rule.as_str()).collect();
    assert_eq!(rules, ["special-file", "candidate"]);
    assert!(dumped.findings[0].message.contains("2: pipe, socket"), "{}", dumped.findings[0].message);
    let source = manifest_of("files", &dumped);
    assert_eq!(facts_of(&source).unwrap().entries, 2);
    let member = world.beside(&source);
    assert_eq!(world.verify(&member, &source), Vec::<String>::new());
    // In a candidate, none can come from the backup.
    let _socket = std::os::unix::net::UnixListener::bind(Path::new(&member.place).join("socket")).unwrap();
    assert!(world.verify(&member, &source).contains(&"special-file".to_owned()));
}

#[test]
fn a_directory_that_changes_under_the_walk_still_gives_a_sound_backup() {
    let world = World::new();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let churn = {
        let (path, stop) = (world.path.clone(), stop.clone());
        std::thread::spawn(move || {
            // As the service does: temporary name and rename, and removal. And as a log does: growing in place.
            let mut n = 0_u32;
            let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path.join("log")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                std::fs::write(path.join(".tmp"), format!("content {n}")).unwrap();
                std::fs::rename(path.join(".tmp"), path.join(format!("f{}", n % 50))).unwrap();
                let _ = std::fs::remove_file(path.join(format!("f{}", (n * 7) % 50)));
                let _ = std::fs::create_dir(path.join(format!("d{}", n % 5)));
                let _ = std::fs::remove_dir(path.join(format!("d{}", (n + 2) % 5)));
                log.write_all(b"another line\n").unwrap();
            }
        })
    };
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..20 {
        let source = world.dump();
        let member = world.beside(&source);
        assert_eq!(world.verify(&member, &source), Vec::<String>::new());
        world.driver.discard(&cx(), &member).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    churn.join().unwrap();
}

#[test]
fn deviations_of_a_candidate_are_found() {
    let world = World::new();
    world.write("a", b"abc");
    world.write("b/c", b"def");
    let source = world.dump();
    let changed = |change: &dyn Fn(&Path)| {
        let member = world.beside(&source);
        change(Path::new(&member.place));
        let rules = world.verify(&member, &source);
        world.driver.discard(&cx(), &member).unwrap();
        rules
    };
    assert_eq!(changed(&|_| {}), Vec::<String>::new());
    assert_eq!(changed(&|p| std::fs::write(p.join("a"), b"abX").unwrap()), ["content-hash"]);
    assert_eq!(changed(&|p| std::fs::rename(p.join("a"), p.join("A")).unwrap()), ["content-hash"]);
    assert_eq!(
        changed(&|p| std::fs::set_permissions(p.join("a"), std::fs::Permissions::from_mode(0o600)).unwrap()),
        ["content-hash"]
    );
    assert_eq!(changed(&|p| std::fs::remove_file(p.join("a")).unwrap()), ["file-count"]);
    assert_eq!(changed(&|p| std::fs::write(p.join("new"), b"").unwrap()), ["file-count"]);
    assert_eq!(changed(&|p| std::fs::write(p.join("a"), b"ab").unwrap()), ["file-count"]);
}

#[test]
fn hostile_backups_are_refused_and_leave_nothing() {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let out = outside.display().to_string();
    let long = "n/".repeat(2500) + "x";
    let nul = Line::new(b"a\0b", Type::File, 1, 0o644, 0, hex_digest(b"x"), None);
    // Index and archive agree on each of these.
    let cases: Vec<(&str, Vec<Line>)> = vec![
        ("absolute", vec![root(), file(&format!("{out}/x"), b"x")]),
        ("upwards", vec![root(), file("../outside/x", b"x")]),
        ("upwards inside", vec![root(), dir("a"), file("a/../../outside/x", b"x")]),
        ("dot", vec![root(), file("./x", b"x")]),
        ("empty component", vec![root(), file("a//x", b"x")]),
        ("NUL", vec![root(), nul]),
        ("too long", vec![root(), file(&long, b"x")]),
        ("below a link", vec![root(), link("a", &out), file("a/x", b"x")]),
        ("link below a link", vec![root(), link("a", &out), link("a/x", "/etc/passwd")]),
        ("directory below a link", vec![root(), link("a", &out), dir("a/x")]),
        ("below a file", vec![root(), file("a", b"x"), file("a/x", b"x")]),
        ("below nothing", vec![root(), file("a/x", b"x")]),
        ("twice", vec![root(), file("a", b"x"), file("a", b"x")]),
        ("link, then a file of its name", vec![root(), link("a", &out), file("a", b"x")]),
        ("out of order", vec![root(), file("b", b"x"), file("a", b"x")]),
        ("second root", vec![root(), root()]),
        ("no root", vec![file("a", b"x")]),
        ("link as root", vec![link(".", &out)]),
        ("empty target", vec![root(), link("a", "")]),
    ];
    for (name, lines) in cases {
        let mut archive = Vec::new();
        if !matches!(name, "NUL" | "no root") {
            archive = tar_of(&lines, b"x");
        }
        let error = world.stage_made(&lines, &archive).unwrap_err();
        assert!(!error.message.is_empty(), "{name}");
        assert_eq!(world.names(), ["live", "outside"], "{name}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name}");
    }
    // The same helper makes good ones, or all of the above would prove nothing.
    let good = [root(), dir("a"), file("a/x", b"x"), link("z", &out)];
    world.stage_made(&good, &tar_of(&good, b"x")).unwrap();
}

#[test]
fn an_archive_that_does_not_follow_the_index_is_refused() {
    let world = World::new();
    let lines = [root(), file("a", b"x"), file("b", b"x")];
    let good = tar_of(&lines, b"x");
    let header_of = |kind: tar::EntryType, name: &str, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..11].copy_from_slice(b"/etc/passwd");
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let with_a = |header: Vec<u8>| {
        // After the root's block comes `a`.
        [&good[..512], &header, &good[1024..]].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("device", with_a(header_of(tar::EntryType::Char, "a", 1))),
        ("pipe", with_a(header_of(tar::EntryType::Fifo, "a", 1))),
        ("hard link outside", with_a(header_of(tar::EntryType::Link, "a", 0))),
        ("sparse", with_a(header_of(tar::EntryType::GNUSparse, "a", 1))),
        ("huge", with_a(header_of(tar::EntryType::Regular, "a", 1 << 60))),
        ("huge name", with_a(header_of(tar::EntryType::GNULongName, "a", 1 << 40))),
        ("directory", with_a(header_of(tar::EntryType::Directory, "a", 1))),
        ("other name", with_a(header_of(tar::EntryType::Regular, "c", 1))),
        ("outside", with_a(header_of(tar::EntryType::Regular, "../outside", 1))),
        ("cut short", good[..1100].to_vec()),
        ("nothing", Vec::new()),
        ("fewer", tar_of(&lines[..2], b"x")),
        ("more", tar_of(&[lines.as_slice(), &[file("c", b"x")]].concat(), b"x")),
        ("other content", tar_of(&lines, b"y")),
        ("damaged header", {
            let mut bytes = good.clone();
            bytes[512] ^= 1;
            bytes
        }),
    ];
    for (name, archive) in cases {
        assert!(world.stage_made(&lines, &archive).is_err(), "{name}");
        assert_eq!(world.names(), ["live"], "{name}");
    }
    // An index that is not the manifest's, or not in its one form.
    let index = |lines: &[Line]| lines.iter().map(|l| l.encode().unwrap() + "\n").collect::<String>();
    let facts = || {
        let mut sum = Sum::default();
        lines.iter().for_each(|l| sum.add(l, &l.encode().unwrap()));
        sum.facts()
    };
    for text in [
        index(&lines[..2]),
        index(&lines).replace("\"size\":1", "\"size\": 1"),
        index(&lines).replace("\"0644\"", "\"4644\""),
        index(&lines).trim_end().to_owned(),
        String::new(),
        "x".repeat(300_000),
    ] {
        assert!(world.stage_raw(text.clone().into_bytes(), facts(), &good).is_err(), "{:.200}", text);
    }
    assert_eq!(world.names(), ["live"]);
    world.stage_raw(index(&lines).into_bytes(), facts(), &good).unwrap();
}

#[test]
fn promotion_undo_and_drop_are_idempotent() {
    let world = World::new();
    world.write("f", b"old");
    let source = world.dump();
    world.write("f", b"new");
    let member = world.beside(&source);
    let (driver, cx) = (&world.driver, cx());
    assert_eq!(driver.preflight(&cx, &member).unwrap(), vec![]);
    let swap = driver.plan_swap(&cx, &member).unwrap();
    let content = |place: &str| std::fs::read_to_string(Path::new(place).join("f")).unwrap();
    for _ in 0..2 {
        driver.promote(&cx, &member, &swap).unwrap();
        assert_eq!((content(&swap.live_place), content(&swap.other_place)), ("old".into(), "new".into()));
    }
    assert_eq!(driver.discard(&cx, &member).unwrap_err().kind, ErrorKind::Refused);
    for _ in 0..2 {
        driver.undo(&cx, &swap).unwrap();
        assert_eq!((content(&swap.live_place), content(&swap.other_place)), ("new".into(), "old".into()));
    }
    assert_eq!(driver.drop_previous(&cx, &swap).unwrap_err().kind, ErrorKind::Conflict);
    driver.promote(&cx, &member, &swap).unwrap();
    for _ in 0..2 {
        driver.drop_previous(&cx, &swap).unwrap();
        assert_eq!((content(&swap.live_place), world.names()), ("old".into(), vec!["live".to_owned()]));
    }
    assert_eq!(driver.undo(&cx, &swap).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn a_lost_directory_is_replaced() {
    let world = World::new();
    world.write("f", b"old");
    let source = world.dump();
    std::fs::remove_dir_all(&world.path).unwrap();
    assert_eq!(world.driver.check(&cx()).unwrap_err().kind, ErrorKind::NotFound);
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    for _ in 0..2 {
        world.driver.promote(&cx(), &member, &swap).unwrap();
        assert!(world.path.join("f").exists());
    }
    for _ in 0..2 {
        world.driver.undo(&cx(), &swap).unwrap();
        assert!(!world.path.exists());
    }
    // Something came there meanwhile: it is not overwritten.
    world.write("theirs", b"x");
    assert_eq!(world.driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Conflict);
    assert!(world.path.join("theirs").exists());
}

#[test]
fn mount_points_are_refused() {
    let world = World::new();
    let source = world.dump();
    let member = world.beside(&source);
    // A mount point that is there on every Linux, never touched: the findings come before anything is tried.
    let driver = FilesDriver::new("files", FilesSource { path: "/proc".into() });
    let findings = driver.preflight(&cx(), &member).unwrap();
    let rules: Vec<&str> = findings.iter().map(|f| f.rule.as_str()).collect();
    assert!(rules.contains(&"mount-point") && rules.contains(&"device") && rules.contains(&"beside"), "{rules:?}");
    assert_eq!(driver.plan_swap(&cx(), &member).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn strangers_are_not_touched() {
    let world = World::new();
    world.write("f", b"x");
    let source = world.dump();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    std::fs::remove_dir_all(&member.place).unwrap();
    std::fs::create_dir(&member.place).unwrap();
    assert_eq!(world.driver.discard(&cx(), &member).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(world.driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Conflict);
    assert!(Path::new(&member.place).exists());
    std::fs::remove_dir(&member.place).unwrap();
    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("keep"), b"x").unwrap();
    symlink(&elsewhere, &member.place).unwrap();
    assert!(world.driver.discard(&cx(), &member).is_err());
    assert!(elsewhere.join("keep").exists());
}

#[test]
fn a_discard_removes_links_and_not_what_they_lead_to() {
    let world = World::new();
    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("keep"), b"x").unwrap();
    symlink(&elsewhere, world.path.join("link")).unwrap();
    let source = world.dump();
    assert_eq!(facts_of(&source).unwrap().files, 0, "not followed");
    let member = world.beside(&source);
    world.driver.discard(&cx(), &member).unwrap();
    assert!(elsewhere.join("keep").exists());
}

#[test]
fn a_crashed_staging_is_replaced_and_questions_are_answered_no() {
    let world = World::new();
    world.write("f", b"x");
    let source = world.dump();
    let part = world.dir.path().join(format!(".live.lifeboat-{ID}.part"));
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("half"), b"x").unwrap();
    let member = world.beside(&source);
    assert_eq!(world.verify(&member, &source), Vec::<String>::new());
    assert_eq!(world.names().len(), 2);
    let question = Question { name: "q".into(), sql: "SELECT 1".into(), rows_max: 1, not_json: false };
    assert_eq!(world.driver.query(&cx(), None, &question).unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(world.driver.execute(&cx(), &member, &["x".into()]).unwrap_err().kind, ErrorKind::Invalid);
    let late = cx();
    late.cancelled.store(true, Ordering::Relaxed);
    assert_eq!(world.driver.dump(&late, &world.objects, &[]).unwrap_err().kind, ErrorKind::Cancelled);
}

#[test]
fn the_index_of_a_dump_that_is_cut_off_stays_nowhere() {
    let world = World::new();
    world.write("a", b"content");
    let spool = tempfile::tempdir().unwrap();
    let driver = FilesDriver::new("files", FilesSource { path: world.path.clone() }).with_spool(spool.path());
    // What a kill in the middle would leave: looked at while the index is being written.
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (sink, path) = (seen.clone(), spool.path().to_owned());
    let progress = move |_| sink.lock().unwrap().push(std::fs::read_dir(&path).unwrap().count());
    let cx = StepContext { progress: std::sync::Arc::new(progress), ..cx() };
    driver.dump(&cx, &world.objects, &[]).unwrap();
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|files| *files == 0), "{seen:?}");
}
