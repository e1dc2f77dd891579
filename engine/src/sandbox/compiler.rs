//! Who compiles modules: this process, or one of its own that is given so much time and memory.
//!
//! What is endless to compile is refused by counts before (`policy/size.rs`), as far as it is known what makes a compiler slow. A process of its
//! own holds against what is not known: it ends, and takes its memory with it, while this one goes on with other runs (decision 0046).
//!
//! ```text
//! program compile-module --processor-s N --memory-bytes N  <module  >machine code
//! ```
//!
//! Exit code 0 and the code on stdout; or another exit code, and why on stderr.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use host_api::StepContext;
use host_api::child::{Child, Ended, Spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::settings;
use crate::error::{Error, Kind, Result};

/// The command that [`answer`] answers.
pub const COMMAND: &str = "compile-module";
/// What the largest modules are compiled to, with room: a language's runtime makes 46 MB.
const CODE_BYTES_MAX: usize = 512 << 20;
/// How much longer than its processor time a child may take, on a machine that others use as well.
const PATIENCE: u32 = 20;

/// What a person can do where the compiler was cut off.
const CUT_OFF: &str = "nothing was done; real modules take a fraction of the bounds, so look at where this one is from, and whether the machine has \
    memory to spare";

/// Who compiles modules.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Compiler {
    /// This process. Only the counts in the module bound what it makes the compiler take.
    #[default]
    Here,
    /// A child process, within bounds. Where none can be started, this process does it, with a warning.
    Child {
        /// Program and first arguments, to which the command is added: `lifeboat`, of this very version. What another one compiles is refused.
        program: Vec<OsString>,
        /// The bounds; none for those of [`Bounds::of`].
        bounds: Option<Bounds>,
    },
}

/// What compiling one module may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Processor time of all its threads, seconds.
    pub processor_s: u64,
    /// Memory that it writes to, bytes.
    pub memory_bytes: u64,
}

impl Bounds {
    /// For a module of so many bytes: many times what real ones take (Python's runtime, 18.5 MB: 21 s of processor time and 410 MiB in a release
    /// build), and room for a small module on a slow machine.
    pub fn of(module_bytes: usize) -> Self {
        let mb = module_bytes as u64 / 1_000_000;
        Self { processor_s: 60 + 25 * mb, memory_bytes: (1 << 30) + mb * (64 << 20) }
    }
}

impl Compiler {
    /// A child that is this very program, which must answer [`COMMAND`] with [`answer`].
    pub fn this_program() -> Self {
        // The kernel's own link: it leads to this program also after its file was replaced by a newer one.
        Self::Child { program: vec!["/proc/self/exe".into()], bounds: None }
    }

    /// Machine code of a module, made by a child; none where this process is to compile. An error if the module does not compile, or not within
    /// the bounds.
    pub(super) fn code(&self, module: &[u8]) -> Result<Option<Vec<u8>>> {
        let Self::Child { program, bounds } = self else { return Ok(None) };
        let bounds = bounds.unwrap_or_else(|| Bounds::of(module.len()));
        let spec = Spec::new(program.iter().cloned())
            .arg(COMMAND)
            .arg("--processor-s")
            .arg(bounds.processor_s.to_string())
            .arg("--memory-bytes")
            .arg(bounds.memory_bytes.to_string());
        let cx = StepContext::detached("compile", Duration::from_secs(bounds.processor_s) * PATIENCE);
        let child = match Child::spawn(&cx, &spec) {
            Ok(child) => child,
            Err(e) => {
                tracing::warn!("a module is compiled without bounds, by this process: {}", e.message);
                return Ok(None);
            }
        };
        match child.to_its_end(module, CODE_BYTES_MAX) {
            Ok((code, ended)) if ended.success() => {
                tracing::debug!("{} bytes of module were compiled by a process of its own", module.len());
                Ok(Some(code))
            }
            Ok((_, ended)) => {
                let refusal = refused(&why(&ended, &bounds));
                // One that ended by itself has said what is wrong with the module.
                Err(match ended.status.signal() {
                    Some(_) => refusal.hint(CUT_OFF),
                    None => refusal,
                })
            }
            Err(e) => Err(refused(&e.message).hint(CUT_OFF)),
        }
    }
}

/// Why a child made nothing of a module.
fn why(ended: &Ended, bounds: &Bounds) -> String {
    const SIGABRT: i32 = 6;
    const SIGXCPU: i32 = 24;
    let Bounds { processor_s, memory_bytes } = bounds;
    match ended.status.signal() {
        Some(SIGXCPU) => format!("it takes more than {processor_s} s of processor time"),
        // What Rust does when there is no more memory.
        Some(SIGABRT) => format!("it takes more than {} MiB of memory", memory_bytes >> 20),
        Some(signal) => format!("the compiler ended with signal {signal}"),
        // A program that is no compiler of ours may say anything.
        None => host_api::identifier::shown_long(&ended.tail()),
    }
}

/// What wasmtime says, on one line. It may quote names of the module.
pub(super) fn words(error: &wasmtime::Error) -> String {
    host_api::identifier::shown_long(&format!("{error:#}").replace('\n', "; "))
}

/// The refusal of a module.
pub(super) fn refused(why: &str) -> Error {
    Error::new(Kind::PolicyRefused, format!("the module does not compile: {why}"))
}

/// Does what [`COMMAND`] asks of a child: compiles the module on stdin to stdout. Binds this process first. The error is for stderr.
pub fn answer(bounds: Bounds) -> Result<(), String> {
    bind(Resource::Core, 0, 0).map_err(|e| format!("core files: {e}"))?;
    // The signal at the first says what happened; the one a second later can't be handled.
    bind(Resource::Cpu, bounds.processor_s, 1).map_err(|e| format!("processor time: {e}"))?;
    bind(Resource::Data, bounds.memory_bytes, 0).map_err(|e| format!("memory: {e}"))?;
    let mut module = Vec::new();
    std::io::stdin().read_to_end(&mut module).map_err(|e| format!("stdin: {e}"))?;
    let engine = wasmtime::Engine::new(&settings()).map_err(|e| words(&e))?;
    let code = engine.precompile_component(&module).map_err(|e| words(&e))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|e| format!("stdout: {e}"))
}

/// Sets a limit, and how much above it nothing in this process can raise it again; a lower one that is set already stays.
fn bind(resource: Resource, most: u64, more: u64) -> rustix::io::Result<()> {
    let set = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = most.saturating_add(more).min(set);
    setrlimit(resource, Rlimit { current: Some(most.min(maximum)), maximum: Some(maximum) })
}
