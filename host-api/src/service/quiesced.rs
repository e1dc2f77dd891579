//! The file that says that a service was stopped on purpose: a proxy in front of it answers 503 as long as it is there.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::context::StepContext;
use crate::disk;
use crate::error::{Context, Result};

/// For everybody to read: the proxy is another user.
const MODE: u32 = 0o644;

/// Puts it there, before the service is stopped. There already, of an earlier attempt or a stop by hand, it is written anew.
pub(super) fn begin(cx: &StepContext, service: &str, file: &Path) -> Result<()> {
    let doing = || format!("saying in {} that {service} is stopped on purpose", file.display());
    let text = serde_json::json!({"service": service, "run": cx.run, "since": crate::identifier::utc(crate::identifier::now_ms())});
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // The directory may be the service's user's, whose links we must not follow: what has the name is removed, and never opened.
    disk::remove_file(&new)?;
    let mut out = File::options().create_new(true).write(true).mode(MODE).open(&new).doing(doing)?;
    // Whatever our umask says.
    out.set_permissions(Permissions::from_mode(MODE)).doing(doing)?;
    writeln!(out, "{text}").doing(doing)?;
    std::fs::rename(&new, file).doing(doing)
}

/// Takes it away, once the service was started: from then on its own readiness speaks. Gone already is fine.
pub(super) fn end(file: &Path) -> Result<()> {
    disk::remove_file(file)
}
