//! How much a module may ask of whoever reads and compiles it. A few bytes can declare fifty thousand locals or a hundred thousand functions,
//! and a compiler takes memory and time for each: what is beyond any real module is refused before it is looked at.

use wasmparser::{Parser, Payload};

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
