//! C bindings of a policy's world.

use std::path::PathBuf;

use wit_bindgen_c::Opts;
use wit_bindgen_core::Files;

use super::wit::Narrowed;
use crate::error::{Error, Kind, Result};

/// `policy.h`, `policy.c`, and the object that carries the world's types into the module.
pub fn bindings(mut narrowed: Narrowed) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Files::default();
    Opts::default()
        .build()
        .generate(&mut narrowed.resolve, narrowed.world, &mut files)
        .map_err(|e| Error::new(Kind::Failed, format!("a bug: no C bindings can be made: {e:#}")))?;
    Ok(files.iter().map(|(name, bytes)| (PathBuf::from(name), bytes.to_vec())).collect())
}
