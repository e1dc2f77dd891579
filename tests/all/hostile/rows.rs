//! The hostile modules, one a row: what each does, what it is given, and how it must end.

use engine::sandbox::limits::Breach;

use super::every_call::{self, Values};
use super::make::{REALLOC, call, call_and_drop, core, imports, instances, pack};

/// How a run of a module must end.
#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// This limit stopped it.
    Breach(Breach),
    /// It trapped, and the summary has these words.
    Trapped(&'static str),
    /// It is let be: what it does harms nobody.
    Ok,
    /// Loading it is refused, with these words.
    Refused(&'static str),
}

/// One hostile module.
pub struct Row {
    /// What it does.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its world.
    pub world: &'static str,
    /// What it is granted.
    pub grants: &'static [&'static str],
    /// Its limits, where the defaults would take long.
    pub limits: &'static str,
    /// How it must end.
    pub ends: Ends,
}

fn row(name: &str, text: &str, ends: Ends) -> Row {
    Row { name: name.into(), bytes: pack("backup", text), world: "backup", grants: &[], limits: "", ends }
}

impl Row {
    fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    fn grants(self, grants: &'static [&'static str]) -> Self {
        Self { grants, ..self }
    }
}

const FOREVER: &str = "(loop $on (br $on))";
/// One second, one more of grace, and more fuel than both can burn.
const SHORT: &str = "deadline-s = 1, grace-s = 1, fuel = 18446744073709551";

/// Repeats for ever.
fn again(body: &str) -> String {
    format!("(loop $on {body} (br $on))")
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let mut rows = time();
    rows.extend(memory());
    rows.extend(calls());
    rows.extend(handles());
    rows.extend(traps());
    rows
}

fn time() -> Vec<Row> {
    let deep = "(func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))";
    let sleep = call_and_drop("clock.sleep-until", "(i64.const 9000000000000000)");
    vec![
        row("endless loop", &core(&[], 1, "", FOREVER), Ends::Breach(Breach::Fuel)).limits("fuel = 100000000"),
        row("endless loop, all the fuel", &core(&[], 1, "", FOREVER), Ends::Breach(Breach::Deadline)).limits(SHORT),
        // The wait ends at the deadline with an error; the loop after it with the grace.
        row(
            "waits in the host past its deadline, then loops",
            &core(&["clock.sleep-until"], 1, "", &format!("{sleep} {FOREVER}")),
            Ends::Breach(Breach::Deadline),
        )
        .limits(SHORT)
        .grants(&["clock.sleep-until"]),
        row(
            "endless recursion",
            &core(&[], 1, deep, "(drop (call $deeper (i32.const 1)))"),
            Ends::Breach(Breach::Stack),
        ),
        row(
            "loops in its start function",
            &core(&[], 1, &format!("(func $begin {FOREVER}) (start $begin)"), ""),
            Ends::Breach(Breach::Fuel),
        )
        .limits("fuel = 100000000"),
        row(
            "loops where it is asked for memory",
            &core(&[], 1, "", "").replace("(local $at i32)\n", &format!("(local $at i32) {FOREVER}\n")),
            Ends::Breach(Breach::Fuel),
        )
        .limits("fuel = 100000000"),
    ]
}

fn memory() -> Vec<Row> {
    let grow = again("(drop (memory.grow (i32.const 16)))");
    let table = again("(drop (table.grow $t (ref.null func) (i32.const 4096)))");
    let touch = "(memory.fill (i32.const 65536) (i32.const 1) (i32.const 60000000))";
    let some = |count: usize| "(memory 1)".repeat(count);
    vec![
        row("grows its memory", &core(&[], 1, "", &grow), Ends::Breach(Breach::Memory)),
        row(
            "touches all it has, then wants more",
            &core(&[], 1000, "", &format!("{touch} {grow}")),
            Ends::Breach(Breach::Memory),
        ),
        row("begins with 4 GiB", &core(&[], 65536, "", ""), Ends::Refused("memory")),
        row("begins with 1 GiB", &core(&[], 16384, "", ""), Ends::Breach(Breach::Memory)),
        row("90 memories", &core(&[], 1, &some(90), ""), Ends::Refused("memories")),
        row("grows a table", &core(&[], 1, "(table $t 1 funcref)", &table), Ends::Breach(Breach::Memory))
            .limits("memory-bytes-max = 524288"),
        row("begins with a table of 9 million", &core(&[], 1, "(table 9000000 funcref)", ""), Ends::Refused("table")),
        Row {
            bytes: instances(20),
            ..row("a memory in each of 20 instances", &core(&[], 1, "", ""), Ends::Refused("memories"))
        },
        row("90 tables", &core(&[], 1, &"(table 1 funcref)".repeat(90), ""), Ends::Refused("tables")),
    ]
}

fn calls() -> Vec<Row> {
    let text = "(i32.const 4096) (i32.const 200)";
    let note = call_and_drop("report.note", text);
    let mut out: Vec<Row> = every_call::functions()
        .into_iter()
        .filter(|(function, _)| every_call::takes_text(function))
        .map(|(function, world)| Row {
            name: format!("32 MiB into {}", function.name),
            bytes: every_call::guest(world, &[function], Values::Giant),
            world,
            grants: &[],
            limits: "",
            // What a guest does not hold it can't lend; that is found before what comes behind it.
            ends: if every_call::stumbles_on_a_handle(function) {
                Ends::Trapped("handle index")
            } else {
                Ends::Breach(Breach::CallBytes)
            },
        })
        .collect();
    let giant = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1028) (i32.const 65536)) \
         (i32.store (i32.const 1032) (i32.const {}))",
        32 << 20
    );
    let finding = call_and_drop("report.add-finding", &[text; 4].join(" "));
    let many = "report-bytes-max = 1000000";
    out.extend([
        row("ends with an error of 32 MiB", &core(&[], 1000, "", &giant), Ends::Breach(Breach::CallBytes)),
        row("notes without end", &core(&["report.note"], 1, "", &again(&note)), Ends::Breach(Breach::ReportBytes))
            .limits(many),
        row(
            "findings without end",
            &core(&["report.add-finding"], 1, "", &again(&finding)),
            Ends::Breach(Breach::ReportBytes),
        )
        .limits(many),
        row(
            "evidence without end",
            &core(&["report.evidence"], 1, "", &again(&call_and_drop("report.evidence", &format!("{text} {text}")))),
            Ends::Breach(Breach::ReportBytes),
        )
        .limits(many),
        row(
            "a million steps",
            &core(&["catalog.list"], 1, "", &again(&call_and_drop("catalog.list", &format!("{text} {text}")))),
            Ends::Breach(Breach::Steps),
        )
        .limits("steps-max = 100"),
    ]);
    out
}

fn handles() -> Vec<Row> {
    let make = call("dump.options.new", "");
    let other = call("restore.options.new", "");
    let drop_import = r#"(import "lifeboat:recovery/dump@0.1.0" "[resource-drop]options" (func $let-go (param i32)))"#;
    let label =
        |handle: &str| call_and_drop("dump.options.set-label", &format!("{handle} (i32.const 4096) (i32.const 4)"));
    let with_drop = |body: &str| {
        core(&["dump.options.new", "dump.options.set-label"], 1, "", body).replacen(
            "(module ",
            &format!("(module {drop_import} "),
            1,
        )
    };
    let elsewhere = core(
        &["restore.options.new", "dump.options.new", "dump.options.set-label"],
        1,
        "",
        &format!("(local.set $h {other}) {}", label("(local.get $h)")),
    );
    vec![
        row("handles without end", &core(&["dump.options.new"], 1, "", &again(&format!("(drop {make})"))), {
            Ends::Breach(Breach::Handles)
        })
        .limits("handles-max = 1000"),
        row(
            "leaks a hundred handles",
            &core(&["dump.options.new"], 1, "", &format!("(drop {make})").repeat(100)),
            Ends::Ok,
        ),
        row("a forged handle", &with_drop(&label("(i32.const 77)")), Ends::Trapped("handle index")),
        row(
            "a handle after it was let go",
            &with_drop(&format!("(local.set $h {make}) (call $let-go (local.get $h)) {}", label("(local.get $h)"))),
            Ends::Trapped("handle index"),
        ),
        row(
            "lets go of a handle twice",
            &with_drop(&format!("(local.set $h {make}) (call $let-go (local.get $h)) (call $let-go (local.get $h))")),
            Ends::Trapped("handle index"),
        ),
        Row {
            world: "upgrade",
            bytes: pack("upgrade", &elsewhere),
            ..row("another resource's handle", &core(&[], 1, "", ""), Ends::Trapped("handle index"))
        },
    ]
}

fn traps() -> Vec<Row> {
    let plain = |body: &str| core(&[], 1, "(table 1 funcref) (type $f (func))", body);
    let note = call_and_drop("report.note", "(i32.const 4096) (i32.const 4)");
    let raw = |names: &[&str], realloc: &str, items: &str, body: &str| {
        format!(
            r#"(module {} (memory (export "memory") 1) (global $heap (mut i32) (i32.const 32768)) {realloc} {items}
            (func (export "run") (param i32 i32) (result i32) {body} (i32.const 1024)))"#,
            imports(names)
        )
    };
    let wild = |at: &str| format!("(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {at})");
    vec![
        row("traps in run", &plain("unreachable"), Ends::Trapped("unreachable")),
        row(
            "divides by zero",
            &plain("(drop (i32.div_u (local.get 0) (i32.const 0)))"),
            Ends::Trapped("divide by zero"),
        ),
        row("reads outside its memory", &plain("(drop (i32.load (i32.const -4)))"), Ends::Trapped("out of bounds")),
        row("calls nothing", &plain("(call_indirect (type $f) (i32.const 0))"), Ends::Trapped("uninitialized element")),
        row(
            "traps in its start function",
            &core(&[], 1, "(func $begin unreachable) (start $begin)", ""),
            Ends::Trapped("unreachable"),
        ),
        row(
            "traps where it is asked for memory",
            &raw(&[], &wild("unreachable"), "", ""),
            Ends::Trapped("unreachable"),
        ),
        row("memory outside its memory", &raw(&[], &wild("(i32.const -65536)"), "", ""), Ends::Trapped("realloc")),
        row(
            "calls the host where it is asked for memory",
            &raw(&["report.note"], &wild(&format!("{note} unreachable")), "", ""),
            Ends::Trapped("cannot leave"),
        ),
        row(
            "traps when it has answered",
            &raw(&[], REALLOC, r#"(func (export "cabi_post_run") (param i32) unreachable)"#, ""),
            Ends::Trapped("unreachable"),
        ),
        row(
            "answers with what is no answer",
            &raw(&[], REALLOC, "", "(i32.store8 (i32.const 1024) (i32.const 9))"),
            Ends::Trapped("discriminant"),
        ),
        row("answers outside its memory", &raw(&[], REALLOC, "", "(return (i32.const -8))"), Ends::Trapped("bounds")),
        row(
            "says what is no text",
            &raw(&["report.note"], REALLOC, r#"(data (i32.const 4096) "\ff\fe\fd\fc")"#, &note),
            Ends::Trapped("utf-8"),
        ),
        row(
            "says text outside its memory",
            &raw(&["report.note"], REALLOC, "", &call_and_drop("report.note", "(i32.const 65530) (i32.const 100)")),
            Ends::Trapped("bounds"),
        ),
    ]
}
