//! A compiler for guests out of Debian's packages, for machines without a way to rustup's server.
//!
//! Debian has a current rustc for its browsers (`rustc-web`) and the source that belongs to it, but
//! no standard library for our target: it is built from that source once, below
//! `target/guest-sysroot`, in the layout of a compiler's own folder (a "sysroot"). Rustup's compiler
//! can't build that source, nor use the result, so guests are then built with Debian's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::guests::{TARGET, Variables};
use super::is_root;
use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

/// The compiler and the source of its standard library.
const COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The crate whose dependencies are the standard library.
const EMPTY_CRATE: &str = "guest_sysroot";

/// Debian's compiler and the linker of the same LLVM.
struct Compiler {
    rustc: PathBuf,
    /// What `rustc -vV` says: it names what the standard library was built by.
    version: String,
    linker: PathBuf,
}

/// Finds the packages or installs them, and builds the standard library if that is not done yet.
///
/// # Errors
///
/// If packages are missing and can't be installed, or the build fails.
pub fn toolchain(workspace: &Workspace) -> Result<Variables> {
    install(&COMPILER)?;
    let (rustc, version) = rustc().context("the package rustc-web has no rustc")?;
    install(&[&linker_package(&version)?])?;
    let compiler = Compiler::installed(rustc, version)?;
    let sysroot = sysroot(workspace)?;
    let stamp = Stamp::new(&sysroot, &compiler.version);
    if !stamp.is_there() {
        eprintln!("building Rust's standard library for {TARGET}, once (about half a minute)");
        stamp.make(|sysroot| build_sysroot(&compiler, sysroot))?;
    }
    Ok(compiler.variables(&sysroot))
}

/// What an earlier [`toolchain`] made, if it is still whole.
pub fn finished(workspace: &Workspace) -> Option<Variables> {
    let (rustc, version) = rustc()?;
    let compiler = Compiler::installed(rustc, version).ok()?;
    let sysroot = sysroot(workspace).ok()?;
    Stamp::new(&sysroot, &compiler.version).is_there().then(|| compiler.variables(&sysroot))
}

impl Compiler {
    fn installed(rustc: PathBuf, version: String) -> Result<Self> {
        let package = linker_package(&version)?;
        let linker = format!("/bin/wasm-ld-{}", llvm(&version)?);
        let linker =
            file_of(&package, &linker).with_context(|| format!("the package {package} has no file …{linker}"))?;
        Ok(Self { rustc, version, linker })
    }

    /// `--sysroot` stands in the target's flags, so that procedural macros keep the host's library.
    fn variables(&self, sysroot: &Path) -> Variables {
        let mut flags = std::ffi::OsString::from("--sysroot ");
        flags.push(sysroot);
        vec![
            ("RUSTC", self.rustc.clone().into()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", self.linker.clone().into()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags),
        ]
    }
}

/// Debian's rustc, asked of dpkg because another one may come first on the `PATH`.
fn rustc() -> Option<(PathBuf, String)> {
    let rustc = file_of("rustc-web", "/bin/rustc")?;
    let version = Run::new(&rustc).arg("-vV").output().ok()?;
    Some((rustc, version))
}

fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let sysroot = workspace.target.join("guest-sysroot");
    // Cargo splits the variable that carries this path at white space.
    if sysroot.to_string_lossy().contains(char::is_whitespace) {
        bail!(
            "{} has a space in it, which cargo can't pass on to rustc\n\
             hint: set CARGO_TARGET_DIR to a folder without one",
            sysroot.display()
        );
    }
    Ok(sysroot)
}

/// Installs those of `packages` that are missing.
fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root()? {
        bail!(
            "Debian's compiler is not complete: {names} not installed\n\
             hint: `sudo apt-get install {names}`, or `rustup target add {TARGET}`"
        );
    }
    eprintln!("installing Debian packages to build guests with: {names}");
    apt_get(&["update", "--quiet=2"])?;
    // Never at the cost of a package that is there, such as Debian's own rustc or rustup.
    let options = ["install", "--yes", "--quiet=2", "--no-install-recommends", "--no-remove"];
    apt_get(&[&options, missing.as_slice()].concat())
}

fn apt_get(args: &[&str]) -> Result<()> {
    Run::new("apt-get")
        // A progress bar is no log.
        .args(["-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .hint(format!("this way needs Debian with its security updates; any other: `rustup target add {TARGET}`"))
        .run()
}

fn is_installed(package: &str) -> bool {
    Run::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|status| status == "installed")
}

/// The file of an installed package whose path ends in `end`.
fn file_of(package: &str, end: &str) -> Option<PathBuf> {
    let files = Run::new("dpkg").args(["-L", package]).output().ok()?;
    files.lines().find(|file| file.ends_with(end)).map(PathBuf::from)
}

/// The linker has to read what this compiler's LLVM writes.
fn linker_package(version: &str) -> Result<String> {
    Ok(format!("lld-{}", llvm(version)?))
}

/// The major version of the LLVM in what `rustc -vV` says.
fn llvm(version: &str) -> Result<&str> {
    let llvm = field(version, "LLVM version")?;
    Ok(llvm.split('.').next().unwrap_or(llvm))
}

fn field<'a>(version: &'a str, name: &str) -> Result<&'a str> {
    version
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(key, value)| (key == name).then_some(value))
        .with_context(|| format!("`rustc -vV` has no line {name}"))
}

/// Lays out `folder/lib/rustlib`: the guests' library, and the host's beside it by a link.
fn build_sysroot(compiler: &Compiler, folder: &Path) -> Result<()> {
    let rustlib = folder.join("lib/rustlib");
    let libraries = rustlib.join(TARGET).join("lib");
    fs::create_dir_all(&libraries)?;
    let build = folder.join("build");
    build_standard_library(compiler, &build)?;
    copy_libraries(&build.join("target").join(TARGET).join("release/deps"), &libraries)?;
    fs::remove_dir_all(&build)?;

    let own_sysroot = Run::new(&compiler.rustc).args(["--print", "sysroot"]).output()?;
    let host = field(&compiler.version, "host")?;
    std::os::unix::fs::symlink(Path::new(&own_sysroot).join("lib/rustlib").join(host), rustlib.join(host))?;
    Ok(())
}

fn build_standard_library(compiler: &Compiler, build: &Path) -> Result<()> {
    fs::create_dir_all(build.join("src"))?;
    fs::write(build.join("src/lib.rs"), "#![no_std]\n")?;
    // A workspace of its own, although it stands below one.
    let manifest = format!("[package]\nname = \"{EMPTY_CRATE}\"\nedition = \"2024\"\n[workspace]\n");
    fs::write(build.join("Cargo.toml"), manifest)?;
    Run::cargo()
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .arg("-Zbuild-std=std,panic_abort")
        .args(["--target-dir", "target"])
        .dir(build)
        .env("RUSTC", &compiler.rustc)
        // Lets a stable cargo and rustc take `-Z`; only a real variable does.
        .env("RUSTC_BOOTSTRAP", "1")
        // Guests are linked with `lto = true`, which needs bitcode in every library.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .run()
}

fn copy_libraries(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".rlib") && !name.contains(EMPTY_CRATE) {
            fs::copy(entry.path(), to.join(&*name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{field, llvm};

    const VERSION: &str = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8";

    #[test]
    fn reads_what_rustc_says() -> anyhow::Result<()> {
        assert_eq!(llvm(VERSION)?, "22");
        assert_eq!(field(VERSION, "host")?, "x86_64-unknown-linux-gnu");
        assert!(field(VERSION, "release").is_err());
        Ok(())
    }
}
