use std::path::{Path, PathBuf};

use wasm_encoder::{
    CodeSection, ComponentBuilder, Function, FunctionSection, GlobalSection, GlobalType, Module, StartSection,
    TypeSection, ValType,
};
use wasmtime::Store;
use wasmtime::component::Linker;

use super::*;
use crate::sandbox::Sandbox;
use crate::sandbox::compiler::Compiler;

/// A component whose code is run when an instance is made; `number` makes one that differs.
fn component(number: i32) -> Vec<u8> {
    let mut module = Module::new();
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut globals = GlobalSection::new();
    let global = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
    globals.global(global, &wasm_encoder::ConstExpr::i32_const(0));
    let mut code = CodeSection::new();
    let mut body = Function::new([]);
    body.instructions().i32_const(number).global_set(0).end();
    code.function(&body);
    module.section(&types).section(&functions).section(&globals).section(&StartSection { function_index: 0 });
    module.section(&code);
    let mut builder = ComponentBuilder::default();
    let index = builder.core_module(None, &module);
    builder.core_instantiate(None, index, []);
    builder.finish()
}

struct Place {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
    sha256: String,
}

impl Place {
    fn new() -> Self {
        let bytes = component(7);
        let sha256 = hex::encode(Sha256::digest(&bytes));
        Self { folder: tempfile::tempdir().unwrap(), bytes, sha256 }
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("compiled")
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox::new(Some(&self.directory()), Compiler::Here).unwrap()
    }

    fn load(&self, sandbox: &Sandbox) -> Component {
        sandbox.component(&self.bytes, &self.sha256).unwrap()
    }

    /// Whether there is a file that a new engine takes.
    fn is_kept(&self) -> bool {
        let sandbox = self.sandbox();
        sandbox.cache.as_ref().unwrap().take(sandbox.engine(), &self.sha256).is_some()
    }

    fn file(&self) -> PathBuf {
        let all: Vec<_> = std::fs::read_dir(self.directory()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }
}

/// Runs the component's code.
async fn run(sandbox: &Sandbox, component: &Component) {
    let mut store = Store::new(sandbox.engine(), ());
    store.set_fuel(1_000).unwrap();
    store.set_epoch_deadline(1_000);
    Linker::new(sandbox.engine()).instantiate_async(&mut store, component).await.unwrap();
    assert!(store.get_fuel().unwrap() < 1_000, "code was run");
}

fn is_mapped(path: &Path) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| line.contains("r-xp") && line.contains(path.to_str().unwrap()))
}

#[tokio::test]
async fn what_was_compiled_is_mapped_the_next_time_and_runs_also_when_its_file_is_gone() {
    let place = Place::new();
    let sandbox = place.sandbox();
    run(&sandbox, &place.load(&sandbox)).await;
    let file = place.file();
    assert!(!is_mapped(&file), "what was compiled now is in memory");
    let sandbox = place.sandbox();
    let component = place.load(&sandbox);
    assert!(is_mapped(&file), "what was compiled before is mapped");
    std::fs::remove_file(&file).unwrap();
    run(&sandbox, &component).await;
}

#[tokio::test]
async fn damage_is_noticed_before_anything_is_mapped_and_the_file_replaced() {
    let place = Place::new();
    place.load(&place.sandbox());
    let file = place.file();
    let whole = std::fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    let damaged = [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        flipped(0),
        flipped(whole.len() / 2),
        flipped(whole.len() - 1),
        b"\x7fELF and nothing else".to_vec(),
    ];
    for (number, bytes) in damaged.iter().enumerate() {
        std::fs::write(&file, bytes).unwrap();
        assert!(!place.is_kept(), "damage {number}");
        assert!(!file.exists(), "it is removed");
        let sandbox = place.sandbox();
        run(&sandbox, &place.load(&sandbox)).await;
        assert_eq!(std::fs::read(&file).unwrap(), whole, "it is made again, and is the same");
        assert!(place.is_kept());
    }
}

#[test]
fn the_code_of_another_module_or_of_other_settings_is_not_taken() {
    let place = Place::new();
    place.load(&place.sandbox());
    let mine = place.file();
    let mut other = Place::new();
    other.bytes = component(8);
    other.sha256 = hex::encode(Sha256::digest(&other.bytes));
    other.load(&other.sandbox());
    std::fs::copy(other.file(), &mine).unwrap();
    assert!(!place.is_kept());

    // An engine that compiles differently looks for another name, and does not take the file under that name either.
    place.load(&place.sandbox());
    let mut config = wasmtime::Config::new();
    config.wasm_component_model(true).consume_fuel(false);
    let engine = Engine::new(&config).unwrap();
    let cache = Cache::new(Arc::new(Kept::open(&place.directory()).unwrap()), &engine);
    assert!(cache.take(&engine, &place.sha256).is_none());
    assert!(place.is_kept(), "what is another's stays");
    let theirs = place.directory().join(format!("{}.{ENDING}", hex::encode(cache.key(&place.sha256))));
    std::fs::copy(&mine, &theirs).unwrap();
    assert!(
        matches!(cache.kept.find(ENDING, &cache.key(&place.sha256)), Found::Unusable(why) if why.contains("another"))
    );
    assert!(cache.take(&engine, &place.sha256).is_none() && !theirs.exists());
}

/// As a second line: wasmtime looks itself, where a seal would be good.
#[test]
fn sealed_bytes_that_are_no_code_of_this_engine_are_an_error_and_replaced() {
    let place = Place::new();
    let sandbox = place.sandbox();
    let cache = sandbox.cache.as_ref().unwrap();
    let key = cache.key(&place.sha256);
    cache.kept.keep(ENDING, &key, b"\x7fELF, sealed").unwrap();
    assert!(cache.take(sandbox.engine(), &place.sha256).is_none());
    assert!(matches!(cache.kept.find(ENDING, &key), Found::Absent));
    place.load(&sandbox);
    assert!(place.is_kept());
}

#[tokio::test]
async fn a_directory_that_is_not_ours_alone_is_passed_over_and_nothing_is_put_there() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    std::fs::set_permissions(place.directory(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let sandbox = place.sandbox();
    assert!(sandbox.kept().is_none());
    run(&sandbox, &place.load(&sandbox)).await;
    assert_eq!(std::fs::read_dir(place.directory()).unwrap().count(), 0);
}

/// A file system that is mounted `noexec`: its files can't be mapped as code.
#[tokio::test]
async fn where_files_cant_be_mapped_as_code_they_are_read() {
    let place = Place::new();
    std::fs::create_dir(place.directory()).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "noexec,mode=0700,size=8m", "tmpfs"])
        .arg(place.directory())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a tmpfs can't be mounted here (not root?). A file system without code was NOT tested.");
        return;
    }
    place.load(&place.sandbox());
    let file = place.file();
    let sandbox = place.sandbox();
    let cache = sandbox.cache.as_ref().unwrap();
    let taken = cache.take(sandbox.engine(), &place.sha256);
    let mapped = is_mapped(&file);
    if let Some(component) = &taken {
        run(&sandbox, component).await;
    }
    let _ = std::process::Command::new("umount").arg("-l").arg(place.directory()).status();
    assert!(taken.is_some() && !mapped);
}
