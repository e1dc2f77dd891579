//! Lifeboat's engine: loads recovery policies, WebAssembly components, into a sandbox, and runs them against a host's primitives with every
//! step on record.
//!
//! ```no_run
//! use std::sync::Arc;
//! use engine::config::Config;
//!
//! # async fn example() -> engine::Result<()> {
//! let config = Config::load("lifeboat.toml".as_ref())?;
//! let environment = config.environment(Some("staging"))?;
//! let engine = config.builder()?.build().await?;
//! let binding = environment.policy("backup")?;
//! let module = engine.load_admitted(&environment.admit("backup", &binding)?)?;
//! let parameters = binding.parameters(&module.inspected.description, &["service=notes".into()])?;
//! let options = environment.run_options("backup", &binding, parameters, "embedded")?;
//! let ended = engine.run(&module, options).await?;
//! println!("{}: {}", ended.status.word(), ended.summary);
//! # Ok(())
//! # }
//! ```
//!
//! A program with primitives of its own puts them into [`run::RunOptions`]'s [`host_api::Host`]: see `examples/embed`.

mod abandon;
pub mod approvals;
pub mod audit;
mod by_rules;
pub mod calls;
mod cancel;
pub mod check;
pub mod claims;
mod conceal;
pub mod config;
mod consent;
pub mod contract;
pub mod direct;
mod dispatch;
mod endings;
pub mod error;
pub mod grants;
pub mod in_use;
pub mod journal;
pub mod mixed;
mod obligations;
pub mod observe;
pub mod policy;
pub mod probe;
#[cfg(feature = "oci")]
pub mod registry;
pub mod rehearse;
pub mod reporting;
mod resolve;
mod resume;
pub mod run;
pub mod sandbox;
pub mod schedule;
mod step;
mod sweeping;
mod withheld;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use host_api::context::Waypoint;
use wasmtime::component::Linker;

use approvals::{Confirmer, Nobody};
use audit::CheckpointStore;
use config::Admitted;
pub use error::{Error, Result};
use journal::{PostgresState, State};
use observe::{Observer, Unwatched};
use policy::{Inspected, Module};
use sandbox::Sandbox;
use sandbox::compiler::Compiler;
use sandbox::linker::Guest;
use step::Surroundings;

/// The compile cache, in the state directory.
pub(crate) const COMPILED: &str = "compiled";

/// By world, and whether with an empty WASI.
type Linkers = BTreeMap<(String, bool), Arc<Linker<Guest>>>;

/// Loads and runs policies. Holds no global state: several may live in one process.
pub struct Engine {
    sandbox: Sandbox,
    around: Arc<Surroundings>,
    checkpoint_store: Option<CheckpointStore>,
    linkers: Mutex<Linkers>,
}

/// Makes an [`Engine`].
pub struct Builder {
    state_directory: PathBuf,
    state_database: Option<PostgresState>,
    compile_cache: bool,
    compiler: Compiler,
    confirmer: Arc<dyn Confirmer>,
    observer: Arc<dyn Observer>,
    waypoint: Waypoint,
    checkpoint_store: Option<CheckpointStore>,
}

impl Engine {
    /// A builder; the state lies in `.lifeboat`, nobody is asked and nobody watches until it is told otherwise.
    pub fn builder() -> Builder {
        Builder {
            state_directory: PathBuf::from(".lifeboat"),
            state_database: None,
            compile_cache: true,
            compiler: Compiler::Here,
            confirmer: Arc::new(Nobody),
            observer: Arc::new(Unwatched),
            waypoint: Arc::new(|_| {}),
            checkpoint_store: None,
        }
    }

    /// Checks, compiles and links a module, or takes what it was compiled to before. Only this engine can run it.
    pub fn load(&self, bytes: &[u8]) -> Result<Module> {
        let (inspected, known) = policy::inspect_kept(bytes, self.sandbox.kept())?;
        self.link(bytes, inspected, known)
    }

    /// The same for a module that an environment has admitted: it was read already, and is not read again.
    pub fn load_admitted(&self, admitted: &Admitted) -> Result<Module> {
        self.link(admitted.bytes(), admitted.inspected().clone(), admitted.is_known())
    }

    fn link(&self, bytes: &[u8], inspected: Inspected, known: bool) -> Result<Module> {
        let module = Module::load(&self.sandbox, bytes, inspected, |world, with_wasi| self.linker(world, with_wasi))?;
        if let (Some(kept), false) = (self.sandbox.kept(), known) {
            module.inspected.keep(bytes, kept);
        }
        Ok(module)
    }

    /// The journal and what is derived from it.
    pub fn state(&self) -> &Arc<State> {
        &self.around.state
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// What each of its runs has around it.
    pub(crate) fn around(&self) -> &Arc<Surroundings> {
        &self.around
    }

    pub(crate) fn checkpoint_store(&self) -> Option<&CheckpointStore> {
        self.checkpoint_store.as_ref()
    }

    /// The linker of a world, with or without an empty WASI; built once.
    fn linker(&self, world: &str, with_wasi: bool) -> Result<Arc<Linker<Guest>>> {
        let mut linkers = self.linkers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (world.to_owned(), with_wasi);
        if let Some(linker) = linkers.get(&key) {
            return Ok(linker.clone());
        }
        let linker = Arc::new(self.sandbox.linker(world, with_wasi)?);
        linkers.insert(key, linker.clone());
        Ok(linker)
    }
}

impl Builder {
    /// Where journal, evidence, scratch space and compile cache lie.
    #[must_use]
    pub fn state_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_directory = directory.into();
        self
    }

    /// The database of a state that several engines share.
    #[must_use]
    pub fn state_database(mut self, database: Option<PostgresState>) -> Self {
        self.state_database = database;
        self
    }

    /// Compiles anew each time.
    #[must_use]
    pub fn without_compile_cache(mut self) -> Self {
        self.compile_cache = false;
        self
    }

    /// Who compiles modules: this process, unless it is told otherwise.
    #[must_use]
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.compiler = compiler;
        self
    }

    /// Who is asked for consent.
    #[must_use]
    pub fn confirmer(mut self, confirmer: Arc<dyn Confirmer>) -> Self {
        self.confirmer = confirmer;
        self
    }

    /// Who watches.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// For fault tests: is told the name of every place at which the engine's death would leave something half-done, as `STEP PLACE`, when a
    /// run comes there. A test ends the process there.
    #[must_use]
    pub fn waypoint(mut self, waypoint: Waypoint) -> Self {
        self.waypoint = waypoint;
        self
    }

    /// Where checkpoints of the log are put besides the evidence.
    #[must_use]
    pub fn checkpoint_store(mut self, store: Option<CheckpointStore>) -> Self {
        self.checkpoint_store = store;
        self
    }

    /// Opens the state and makes the engine.
    pub async fn build(self) -> Result<Engine> {
        let state = Arc::new(State::at(&self.state_directory, self.state_database.as_ref()).await?);
        let cache = self.state_directory.join(COMPILED);
        let sandbox = Sandbox::new(self.compile_cache.then_some(cache.as_path()), self.compiler)?;
        let Self { confirmer, observer, waypoint, checkpoint_store, .. } = self;
        let around = Arc::new(Surroundings { state, confirmer, observer, waypoint });
        Ok(Engine { sandbox, around, checkpoint_store, linkers: Mutex::default() })
    }
}
