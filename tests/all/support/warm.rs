//! What modules were compiled to, handed from one site of this process to the next: without optimisation, the compiler takes a second for a policy,
//! and there are hundreds of sites.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Of this process alone: nothing depends on what an earlier one left.
static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    for left in fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(left.file_name()).exists() {
            // Another process may be at it as well.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let own = all.join(std::process::id().to_string());
    fs::create_dir_all(&own).unwrap();
    own
});

/// Fills the compile cache of a site that has no state yet.
pub fn fill(state: &Path) {
    let mut private = fs::DirBuilder::new();
    if private.mode(0o700).create(state).is_err() {
        return;
    }
    let cache = state.join("compiled");
    private.create(&cache).unwrap();
    take_over(&SHARED, &cache);
}

/// Keeps what a site has compiled for those after it.
pub fn keep(state: &Path) {
    take_over(&state.join("compiled"), &SHARED);
}

/// Copies whole files that are not there yet. They are the engine's to check.
fn take_over(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (name, file) = (entry.file_name(), entry.path());
        let wanted = file.extension().is_some_and(|ending| ending == "code" || ending == "facts");
        if !wanted || to.join(&name).exists() || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // Another site may write the same one; both have all of it before it has its name.
        let part = to.join(format!(".part-{:?}", std::thread::current().id()));
        if fs::copy(&file, &part).is_ok() {
            let _ = fs::rename(&part, to.join(name));
        }
    }
}
