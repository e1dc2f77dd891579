use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const KEY: Key = [7; 32];

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compiled");
    (folder, path)
}

fn file_of(path: &Path, key: &Key) -> PathBuf {
    path.join(name_of(key, "x"))
}

fn content_of(kept: &Kept, key: &Key) -> Result<Vec<u8>, String> {
    match kept.find("x", key) {
        Found::Whole(whole) => whole.content(),
        Found::Absent => Err("absent".into()),
        Found::Unusable(why) => Err(why),
    }
}

#[track_caller]
fn refused(kept: &Kept, says: &str) {
    let why = content_of(kept, &KEY).unwrap_err();
    assert!(why.contains(says), "{why}");
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Somebody who is not us.
fn others_uid() -> u32 {
    rustix::process::geteuid().as_raw() + 1
}

#[test]
fn what_is_kept_is_found_again_and_is_only_ours() {
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    assert!(matches!(kept.find("x", &KEY), Found::Absent));
    // More than a chunk, and not a multiple of it.
    let content: Vec<u8> = (0..CHUNK_BYTES * 2 + 12_345).map(|at| (at % 251) as u8).collect();
    kept.keep("x", &KEY, &content).unwrap();
    assert_eq!(content_of(&kept, &KEY).unwrap(), content);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::metadata(file_of(&path, &KEY)).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(names(&path).len(), 1, "nothing temporary stays");
    // By another who opens it later; and again under the same name.
    let again = Kept::open(&path).unwrap();
    again.keep("x", &KEY, b"").unwrap();
    assert_eq!(content_of(&kept, &KEY).unwrap(), b"");
}

#[test]
fn every_flipped_byte_every_cut_and_every_addition_is_noticed() {
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    kept.keep("x", &KEY, b"machine code of a module").unwrap();
    let file = file_of(&path, &KEY);
    let whole = std::fs::read(&file).unwrap();
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            std::fs::write(&file, bytes).unwrap();
            let why = content_of(&kept, &KEY).unwrap_err();
            assert!(why.contains("seal") || why.contains("checksum"), "byte {at}: {why}");
        }
    }
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let why = content_of(&kept, &KEY).unwrap_err();
        assert!(why.contains("cut off") || why.contains("checksum"), "{length} bytes: {why}");
    }
    std::fs::write(&file, [&whole[..], b"\0"].concat()).unwrap();
    refused(&kept, "seal");
    std::fs::write(&file, &whole).unwrap();
    content_of(&kept, &KEY).unwrap();
}

/// One that several threads read.
#[test]
fn in_a_large_file_damage_is_noticed_in_every_block_and_blocks_have_their_places() {
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    let content: Vec<u8> = (0..BLOCK_BYTES * 17 + 5).map(|at| (at / 3 % 241) as u8).collect();
    kept.keep("x", &KEY, &content).unwrap();
    let file = File::options().read(true).write(true).open(file_of(&path, &KEY)).unwrap();
    assert_eq!(read_sums(&file, content.len()).unwrap(), sums_of(&content));
    for block in 0..=17 {
        let at = (block * BLOCK_BYTES + 3) as u64;
        file.write_all_at(&[content[block * BLOCK_BYTES + 3] ^ 1], at).unwrap();
        refused(&kept, "checksum");
        file.write_all_at(&content[block * BLOCK_BYTES + 3..][..1], at).unwrap();
    }
    assert_eq!(content_of(&kept, &KEY).unwrap(), content);
    file.write_all_at(&content[BLOCK_BYTES..2 * BLOCK_BYTES], 0).unwrap();
    file.write_all_at(&content[..BLOCK_BYTES], BLOCK_BYTES as u64).unwrap();
    refused(&kept, "checksum");
}

#[test]
fn a_whole_file_of_another_key_is_not_taken() {
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    kept.keep("x", &[8; 32], b"another module's").unwrap();
    std::fs::copy(file_of(&path, &[8; 32]), file_of(&path, &KEY)).unwrap();
    refused(&kept, "of another module or of another engine");
}

#[test]
fn what_is_not_a_regular_file_of_ours_alone_is_not_taken() {
    let (folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    let file = file_of(&path, &KEY);
    kept.keep("x", &KEY, b"good").unwrap();
    for mode in [0o620, 0o602, 0o666] {
        set_mode(&file, mode);
        refused(&kept, "others than its owner may write");
    }
    set_mode(&file, 0o600);
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    refused(&kept, "symbolic link");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused(&kept, "no regular file");
    std::fs::remove_dir(&file).unwrap();
    // Nobody writes into this one: whoever waited for somebody to do so would wait for ever.
    rustix::fs::mkfifoat(&kept.directory, name_of(&KEY, "x"), Mode::RUSR | Mode::WUSR).unwrap();
    refused(&kept, "no regular file");
}

#[test]
fn a_directory_that_others_could_change_is_not_used() {
    let (folder, path) = place();
    Kept::open(&path).unwrap();
    for mode in [0o770, 0o707, 0o1777] {
        set_mode(&path, mode);
        assert!(Kept::open(&path).err().unwrap().contains("others than its owner may write"), "{mode:o}");
    }
    // Who may only look can't change anything.
    set_mode(&path, 0o755);
    Kept::open(&path).unwrap();
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(Kept::open(&link).err().unwrap().contains("symbolic link"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Kept::open(&file).err().unwrap().contains("no directory"));
    // Where nothing is, looking makes nothing.
    let absent = folder.path().join("absent");
    assert!(Kept::to_look(&absent).unwrap().is_none() && !absent.exists());
}

#[test]
fn what_belongs_to_somebody_else_is_not_used() {
    assert!(check_ours(others_uid(), 0o100_600).unwrap_err().contains("belongs to user"));
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    kept.keep("x", &KEY, b"good").unwrap();
    if !rustix::process::geteuid().is_root() {
        // What is root's is somebody else's.
        assert!(Kept::to_look(Path::new("/")).err().unwrap().contains("belongs to user 0"));
        return;
    }
    std::os::unix::fs::chown(file_of(&path, &KEY), Some(others_uid()), None).unwrap();
    refused(&kept, "belongs to user");
    std::os::unix::fs::chown(&path, Some(others_uid()), None).unwrap();
    assert!(Kept::open(&path).err().unwrap().contains("belongs to user"));
}

/// Sets when a file was last used, in seconds before now.
fn used_before(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn those_that_were_not_used_for_longest_go_and_who_holds_one_keeps_it() {
    let (_folder, path) = place();
    let content = vec![1; 1_000];
    let kept = Kept::open(&path).unwrap().at_most(3 * (1_000 + SEAL_BYTES as u64));
    let keys: [Key; 5] = std::array::from_fn(|at| [u8::try_from(at).unwrap(); 32]);
    for (at, key) in keys[..3].iter().enumerate() {
        kept.keep("x", key, &content).unwrap();
        // The first was used last.
        used_before(&file_of(&path, key), 1_000 + 1_000 * at as u64);
    }
    let Found::Whole(held) = kept.find("x", &keys[2]) else { panic!("it is there") };
    // The second is the oldest now.
    held.used();
    kept.keep("x", &keys[3], &content).unwrap();
    let there = |key: &Key| file_of(&path, key).exists();
    assert_eq!(keys.each_ref().map(there), [true, false, true, true, false]);
    kept.keep("x", &keys[4], &vec![2; 2_500]).unwrap();
    assert_eq!(keys.each_ref().map(there), [false, false, false, false, true], "what was just written stays");
    assert_eq!(held.content().unwrap(), content, "it is gone, and whole for who has it");
    let error = kept.keep("x", &keys[0], &vec![0; 5_000]).unwrap_err();
    assert!(error.to_string().contains("all may have"), "{error}");
    assert!(there(&keys[4]), "nothing goes for what can't be kept");
}

#[test]
fn what_a_crash_left_goes_and_what_another_writes_stays() {
    let (_folder, path) = place();
    let kept = Kept::open(&path).unwrap();
    for name in [".new-old", ".new-young"] {
        std::fs::write(path.join(name), "half").unwrap();
    }
    used_before(&path.join(".new-old"), 2 * LEFT_AFTER.as_secs());
    kept.keep("x", &KEY, b"good").unwrap();
    assert_eq!(names(&path), [".new-young".to_owned(), name_of(&KEY, "x")]);
}

#[test]
fn many_that_write_and_read_at_once_never_see_half_a_file() {
    let (_folder, path) = place();
    let content: Vec<u8> = (0..CHUNK_BYTES + 77).map(|at| (at % 253) as u8).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let kept = Kept::open(&path).unwrap();
                for _ in 0..20 {
                    kept.keep("x", &KEY, &content).unwrap();
                    assert_eq!(content_of(&kept, &KEY).unwrap(), content);
                }
            });
        }
    });
    assert_eq!(names(&path), [name_of(&KEY, "x")]);
}
