//! How much a module may ask of whoever reads and compiles it. A few bytes can declare fifty thousand locals or a hundred thousand functions,
//! and a compiler takes memory and time for each: what is beyond any real module is refused before it is looked at.

use wasmparser::{
    BinaryReaderError, FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader, Parser,
    Payload, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

use super::description::refused;
use crate::error::Result;

/// Components and modules inside of each other. Tools that compose nest two or three deep.
const DEPTH_MAX: u32 = 16;
/// Sections of types, counted by their entries: the whole contract has some hundred, a language runtime some thousand of core types.
const TYPES_MAX: u64 = 50_000;
/// Functions with a body. The engines of Python and JavaScript have ten to thirty thousand.
const FUNCTIONS_MAX: u64 = 100_000;
/// Locals of all functions together; a real function has some ten.
const LOCALS_MAX: u64 = 4_000_000;
/// One function's body, bytes: compiling takes more than proportionally long. The largest interpreter loops have some hundred KiB.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Elements of tables and segments of data.
const SEGMENTS_MAX: u64 = 100_000;

/// Counts, and refuses what is too much of anything.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let (mut depth, mut types, mut functions, mut locals, mut segments) = (0_u32, 0_u64, 0_u64, 0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| refused(format!("it can't be parsed: {e}")))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::TypeSection(section) => types += u64::from(section.count()),
            Payload::CoreTypeSection(section) => types += u64::from(section.count()),
            Payload::ComponentTypeSection(section) => types += u64::from(section.count()),
            Payload::FunctionSection(section) => functions += u64::from(section.count()),
            Payload::ElementSection(section) => segments += u64::from(section.count()),
            Payload::DataSection(section) => segments += u64::from(section.count()),
            Payload::CodeSectionEntry(body) => {
                let size = body.range().len();
                if size > BODY_BYTES_MAX {
                    return Err(refused(format!(
                        "a function of it has {size} bytes, at most {BODY_BYTES_MAX} are compiled"
                    )));
                }
                for declared in body.get_locals_reader().map_err(|e| refused(format!("it can't be parsed: {e}")))? {
                    let (count, _) = declared.map_err(|e| refused(format!("it can't be parsed: {e}")))?;
                    locals += u64::from(count);
                }
            }
            _ => {}
        }
        for (what, count, most) in [
            ("levels of modules inside of each other", u64::from(depth), u64::from(DEPTH_MAX)),
            ("types", types, TYPES_MAX),
            ("functions", functions, FUNCTIONS_MAX),
            ("locals", locals, LOCALS_MAX),
            ("segments", segments, SEGMENTS_MAX),
        ] {
            if count > most {
                return Err(refused(format!("it has more than {most} {what}")));
            }
        }
    }
    Ok(())
}

/// What one function may ask of the compiler: ways through it, each times the values that live there (locals, and what is on the stack). The
/// compiler looks for each value on each way: 80 KB with 60 million of these took it 16 s and 1.4 GB. The engines of JavaScript and Python have
/// at most 0.7 million in a function, and 12 million in all.
const WORK_MAX: u64 = 2_000_000;
/// The same of all functions together.
const WORK_OF_ALL_MAX: u64 = 60_000_000;
/// Ways through one function: blocks, their ends, branches and every target of a table. The largest real ones have some 13,000.
const WAYS_MAX: u64 = 40_000;
/// Loops inside of each other; real ones have 6. Compiling 2,000 took 14 s.
const LOOPS_MAX: u32 = 32;

/// Refuses functions that are small to look at and endless to compile. Reads every instruction: only for what is about to be compiled.
pub(crate) fn check_work(bytes: &[u8]) -> Result<()> {
    let invalid = |e: BinaryReaderError| refused(format!("it is no valid module: {e}"));
    // What may be used is the compiler's matter: here values are counted.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut allocations = FuncValidatorAllocations::default();
    let mut of_all = 0_u64;
    for payload in Parser::new(0).parse_all(bytes) {
        let ValidPayload::Func(to, body) = validator.payload(&payload.map_err(invalid)?).map_err(invalid)? else {
            continue;
        };
        let mut function = to.into_validator(allocations);
        of_all += work(&mut function, &body).map_err(invalid)?.map_err(|what| {
            refused(format!("a function of it is too much to compile: {what}"))
                .hint("generated code with thousands of locals and branches in one function: split it")
        })?;
        if of_all > WORK_OF_ALL_MAX {
            return Err(refused("it is too much to compile: too many ways through too many values".into()));
        }
        allocations = function.into_allocations();
    }
    Ok(())
}

/// Ways times values of one function, or what is too much of it.
fn work(
    validator: &mut FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
) -> std::result::Result<std::result::Result<u64, &'static str>, BinaryReaderError> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    reader.set_features(WasmFeatures::all());
    let mut operators = OperatorsReader::new(reader);
    let (mut ways, mut work, mut loops) = (0_u64, 0_u64, 0_u32);
    // Whether what is open is a loop; the function itself is not.
    let mut open = vec![false];
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset()?;
        validator.op(at, &operator)?;
        let more = match &operator {
            Operator::Block { .. } | Operator::If { .. } | Operator::Loop { .. } => {
                let is_loop = matches!(operator, Operator::Loop { .. });
                open.push(is_loop);
                loops += u32::from(is_loop);
                1
            }
            Operator::End => {
                loops -= u32::from(open.pop() == Some(true));
                1
            }
            Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } => 1,
            Operator::BrTable { targets } => 1 + u64::from(targets.len()),
            _ => continue,
        };
        ways += more;
        work += more * (u64::from(validator.len_locals()) + u64::from(validator.operand_stack_height()));
        if loops > LOOPS_MAX {
            return Ok(Err("too many loops inside of each other"));
        }
        if ways > WAYS_MAX {
            return Ok(Err("too many branches"));
        }
        if work > WORK_MAX {
            return Ok(Err("too many branches around too many values"));
        }
    }
    Ok(Ok(work))
}
