//! A small service over doubles of its drivers, and real directory stores: what the primitives' own order of doing things is tested on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::bindings;
use crate::catalog::Backup;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::now_ms;
use crate::manifest::{FilesFacts, SourceFacts, SourceManifest, SqliteFacts, TableFacts};
use crate::sources::*;
use crate::stores::ObjectStore;
use crate::work::Work;
use crate::{Finding, dump};

/// Writes a script that can be run at once. Another process does: while we have a file open for writing, a child that another test starts may
/// inherit that, and a program that somebody writes to can't be run.
pub(crate) fn write_program(path: &std::path::Path, text: &str) {
    let mut install = std::process::Command::new("install");
    let mut child =
        install.args(["-m", "0755", "/dev/stdin"]).arg(path).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A database `db` and a directory `files`, two stores, and a log of what the drivers were asked to do.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) work: Work,
    pub(crate) store: Arc<ObjectStore>,
    pub(crate) offsite: Arc<ObjectStore>,
    pub(crate) cx: StepContext,
    pub(crate) db: Arc<Double>,
    pub(crate) files: Arc<Double>,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let path = dir.path().join(name);
            let binding = bindings::Store::Directory(bindings::DirectoryStore { path });
            Arc::new(ObjectStore::open(name, &binding).unwrap())
        };
        let (store, offsite) = (open("local"), open("offsite"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let db = Arc::new(Double::new("db", false, "one\ntwo\n", &log));
        let files = Arc::new(Double::new("files", true, "a/1\na/2\n", &log));
        db.answer("known/first", &["one"]);
        db.answer("newest", &["2026-11-23T06:00:00Z"]);
        db.answer("reference/artifacts", &["a/1", "a/2"]);
        let service = serde_json::from_value(serde_json::json!({
            "source": {
                "db": { "kind": "sqlite", "path": "/nowhere/db" },
                "files": { "kind": "files", "path": "/nowhere/files" },
            },
            "known": { "first": { "source": "db", "sql": "select 1" } },
            "newest": { "source": "db", "sql": "select 2" },
            "rerun": { "queued": { "source": "db", "sql": "select 3", "words": "items that will run again" } },
            "query": { "rows": { "source": "db", "sql": "select 4" } },
            "reference": { "artifacts": { "source": "db", "sql": "select 5", "files": "files" } },
            "scratch": { "command": [], "layout": { "files": "var/files" } },
        }))
        .unwrap();
        let drivers: BTreeMap<String, Arc<dyn SourceDriver>> =
            BTreeMap::from([("db".into(), db.clone() as Arc<dyn SourceDriver>), ("files".into(), files.clone() as _)]);
        let state_dir = dir.path().join("state");
        let work = Work {
            name: "notes".into(),
            service,
            drivers,
            signing: Arc::default(),
            encryption: Arc::default(),
            state_dir,
        };
        let cx = StepContext::detached("test", Duration::from_secs(120));
        Self { dir, work, store, offsite, cx, db, files, log }
    }

    pub(crate) fn take(&self) -> Result<Backup> {
        // Every backup is another step's.
        let mut cx = self.cx.clone();
        cx.step = now_ms();
        dump::take(&self.work, &cx, &self.store, &dump::Options::default())
    }

    /// What the drivers were asked to do since the last look.
    pub(crate) fn logged(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Every file in a store, by its path there.
    pub(crate) fn stored(&self, store: &str) -> BTreeSet<String> {
        let root = self.dir.path().join(store);
        crate::reference::files_below(&self.cx.taking_back(crate::work::GRACE), &root).unwrap()
    }

    /// Where an object lies.
    pub(crate) fn path(&self, store: &str, key: &str) -> std::path::PathBuf {
        self.dir.path().join(store).join(key)
    }
}

/// A driver over text in memory: a line is a row, or a file's path.
pub(crate) struct Double {
    name: String,
    files: bool,
    /// Content by place; `live` is one.
    places: Mutex<BTreeMap<String, (u64, String)>>,
    answers: Mutex<BTreeMap<String, Vec<Row>>>,
    next_identity: Mutex<u64>,
    /// Calls that fail, and how often they do.
    faults: Mutex<BTreeMap<String, u32>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Double {
    fn new(name: &str, files: bool, content: &str, log: &Arc<Mutex<Vec<String>>>) -> Self {
        Self {
            name: name.into(),
            files,
            places: Mutex::new(BTreeMap::from([("live".into(), (1, content.into()))])),
            answers: Mutex::default(),
            next_identity: Mutex::new(2),
            faults: Mutex::default(),
            log: log.clone(),
        }
    }

    /// Sets a question's answer: one column, one row for each value.
    pub(crate) fn answer(&self, question: &str, values: &[&str]) {
        let rows = values.iter().map(|value| vec![Some((*value).to_owned())]).collect();
        self.answers.lock().unwrap().insert(question.into(), rows);
    }

    /// Lets the next call of a name fail.
    pub(crate) fn fail(&self, call: &str) {
        *self.faults.lock().unwrap().entry(call.into()).or_default() += 1;
    }

    /// True if every fault that was set has fired.
    pub(crate) fn fired(&self) -> bool {
        self.faults.lock().unwrap().values().all(|left| *left == 0)
    }

    pub(crate) fn content(&self, place: &str) -> Option<String> {
        self.places.lock().unwrap().get(place).map(|(_, content)| content.clone())
    }

    pub(crate) fn set(&self, place: &str, content: &str) {
        let identity = self.identity_at(place).unwrap_or_else(|| self.fresh());
        self.places.lock().unwrap().insert(place.into(), (identity, content.into()));
    }

    /// Puts something else in a place.
    pub(crate) fn replace(&self, place: &str) {
        let identity = self.fresh();
        self.places.lock().unwrap().get_mut(place).unwrap().0 = identity;
    }

    pub(crate) fn lose_live(&self) {
        self.places.lock().unwrap().remove("live");
    }

    fn fresh(&self) -> u64 {
        let mut next = self.next_identity.lock().unwrap();
        *next += 1;
        *next
    }

    fn identity_at(&self, place: &str) -> Option<u64> {
        self.places.lock().unwrap().get(place).map(|(identity, _)| *identity)
    }

    fn call(&self, cx: &StepContext, call: &str) -> Result<()> {
        cx.check()?;
        self.log.lock().unwrap().push(format!("{call} {}", self.name));
        match self.faults.lock().unwrap().get_mut(call) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(Error::failed(format!("injected: {call} {}", self.name)))
            }
            _ => Ok(()),
        }
    }

    fn facts(&self, content: &str) -> SourceFacts {
        let rows = content.lines().count() as u64;
        if self.files {
            SourceFacts::Files(FilesFacts { entries: rows, files: rows, bytes: 0, hash: content.into() })
        } else {
            SourceFacts::Sqlite(SqliteFacts {
                page_bytes: 4096,
                pages: 1,
                user_version: 0,
                journal_mode: "wal".into(),
                schema_sha256: String::new(),
                tables: vec![TableFacts { name: "t".into(), rows, hash: content.into(), copy: None }],
            })
        }
    }

    fn swap(&self, one: &str, two: &str) {
        let mut places = self.places.lock().unwrap();
        let (a, b) = (places.remove(one), places.remove(two));
        places.extend(a.map(|a| (two.to_owned(), a)));
        places.extend(b.map(|b| (one.to_owned(), b)));
    }
}

pub(crate) fn identity(number: u64) -> Identity {
    Identity::from([("number".into(), number.to_string())])
}

impl SourceDriver for Double {
    fn check(&self, cx: &StepContext) -> Result<()> {
        self.call(cx, "check")
    }

    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped> {
        let started_at_ms = now_ms();
        let content = self.content("live").ok_or_else(|| Error::failed("nothing live"))?;
        let mut data = sink.create("data", "txt", None)?;
        data.write_all(content.as_bytes()).unwrap();
        let mut objects = vec![data.finish()?];
        if self.files {
            let mut index = sink.create("index", "jsonl", None)?;
            writeln!(index, r#"{{"path":"a","type":"dir","mode":493}}"#).unwrap();
            content.lines().for_each(|path| writeln!(index, r#"{{"path":"{path}","type":"file","size":1}}"#).unwrap());
            objects.push(index.finish()?);
        }
        // After objects were stored: the worst moment.
        self.call(cx, "dump")?;
        let all = self.answers.lock().unwrap();
        let answers =
            questions.iter().map(|q| (q.name.clone(), all.get(&q.name).cloned().unwrap_or_default())).collect();
        Ok(Dumped { started_at_ms, objects, facts: self.facts(&content), answers, findings: vec![] })
    }

    fn stage(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        id: &str,
        target: &Target,
        _: &StageOptions,
    ) -> Result<Member> {
        self.call(cx, "stage")?;
        let spooled = objects.spool(cx, &source.objects[0])?;
        let mut content = String::new();
        std::fs::File::open(spooled.path()).unwrap().read_to_string(&mut content).unwrap();
        let (place, beside) = match target {
            Target::Scratch { dir, relative } => (dir.join(relative).display().to_string(), false),
            Target::Beside => (format!("beside-{id}"), true),
        };
        if let (true, Target::Scratch { .. }) = (self.files, target) {
            for path in content.lines() {
                let path = std::path::Path::new(&place).join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
        }
        self.set(&place, &content);
        let number = self.identity_at(&place).unwrap();
        Ok(Member { source: self.name.clone(), place, identity: identity(number), beside, data_only: None })
    }

    fn verify(
        &self,
        cx: &StepContext,
        member: &Member,
        source: &SourceManifest,
        _: &dyn ObjectSource,
        questions: &[Question],
    ) -> Result<Verified> {
        self.call(cx, "verify")?;
        let content = self.content(&member.place).unwrap();
        let count = content.lines().count() as u64;
        let findings =
            if self.facts(&content) == source.facts { vec![] } else { vec![Finding::error("content", "differs", "")] };
        let all = self.answers.lock().unwrap();
        let answers =
            questions.iter().map(|q| (q.name.clone(), all.get(&q.name).cloned().unwrap_or_default())).collect();
        let (rows, files) = if self.files { (0, count) } else { (count, 0) };
        Ok(Verified { findings, rows, files, answers })
    }

    fn query(&self, cx: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>> {
        self.call(cx, if member.is_some() { "query-member" } else { "query-live" })?;
        // The live data may have answers of their own.
        let own = member.is_none().then(|| format!("live:{}", question.name));
        let all = self.answers.lock().unwrap();
        Ok(own.and_then(|own| all.get(&own)).or_else(|| all.get(&question.name)).cloned().unwrap_or_default())
    }

    fn execute(&self, cx: &StepContext, _: &Member, _: &[String]) -> Result<()> {
        self.call(cx, "execute")
    }

    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()> {
        self.call(cx, "discard")?;
        self.places.lock().unwrap().remove(&member.place);
        Ok(())
    }

    fn clear(&self, cx: &StepContext, id: &str) -> Result<()> {
        self.call(cx, "clear")?;
        self.places.lock().unwrap().remove(&format!("beside-{id}"));
        Ok(())
    }

    fn place(&self) -> Result<String> {
        Ok("live".into())
    }

    fn live_identity(&self, _: &StepContext) -> Result<Option<Identity>> {
        Ok(self.identity_at("live").map(identity))
    }

    fn member_identity(&self, _: &StepContext, member: &Member) -> Result<Identity> {
        self.identity_at(&member.place).map(identity).ok_or_else(|| Error::failed("member is gone"))
    }

    fn preflight(&self, cx: &StepContext, _: &Member) -> Result<Vec<Finding>> {
        self.call(cx, "preflight").map(|()| vec![])
    }

    fn plan_swap(&self, cx: &StepContext, member: &Member) -> Result<Swap> {
        Ok(Swap {
            source: self.name.clone(),
            live_place: "live".into(),
            other_place: member.place.clone(),
            previous: self.live_identity(cx)?,
            promoted: member.identity.clone(),
            carried: BTreeMap::new(),
        })
    }

    fn promote(&self, cx: &StepContext, _: &Member, swap: &Swap) -> Result<()> {
        self.call(cx, "promote")?;
        if self.live_identity(cx)?.as_ref() != Some(&swap.promoted) {
            self.swap("live", &swap.other_place);
        }
        Ok(())
    }

    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        self.call(cx, "undo")?;
        if self.live_identity(cx)?.as_ref() == Some(&swap.promoted) {
            self.swap("live", &swap.other_place);
        }
        Ok(())
    }

    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        self.call(cx, "drop-previous")?;
        self.places.lock().unwrap().remove(&swap.other_place);
        Ok(())
    }
}
