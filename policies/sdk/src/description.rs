//! For tests: holds a policy's description (`policy.toml`) against its code.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Panics unless the schema's parameters are exactly those that `P` reads, with the same defaults, and the name is the crate's. An
/// optional parameter without a default must be left out of `P`'s JSON when it is not given.
///
/// # Panics
///
/// With the difference.
pub fn assert_fits<P: DeserializeOwned + Serialize + Debug>(crate_name: &str, description: &str) {
    let description: Value = toml::from_str(description).expect("the description is TOML");
    assert_eq!(description["name"], crate_name);
    let schema = &description["parameters"];
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["additionalProperties"], false);
    let properties = schema["properties"].as_object().expect("properties");
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().expect("a name")).collect();

    let mut least: Map<String, Value> =
        required.iter().map(|name| ((*name).to_owned(), example(&properties[*name]))).collect();
    let read: P = serde_json::from_value(least.clone().into()).expect("the required parameters are enough");
    for name in &required {
        let mut fewer = least.clone();
        fewer.remove(*name);
        serde_json::from_value::<P>(fewer.into()).expect_err(&format!("`{name}` is required"));
    }
    for (name, property) in properties {
        if let Some(default) = property.get("default") {
            least.insert(name.clone(), default.clone());
        }
    }
    assert_eq!(serde_json::to_value(&read).expect("parameters are JSON"), Value::Object(least), "defaults");
    for (name, property) in properties {
        let mut all: Map<String, Value> =
            required.iter().map(|name| ((*name).to_owned(), example(&properties[*name]))).collect();
        all.insert(name.clone(), example(property));
        serde_json::from_value::<P>(all.into()).unwrap_or_else(|error| panic!("`{name}`: {error}"));
    }
    let mut unknown: Map<String, Value> =
        required.iter().map(|name| ((*name).to_owned(), example(&properties[*name]))).collect();
    unknown.insert("no-such-parameter".into(), Value::Null);
    serde_json::from_value::<P>(unknown.into()).expect_err("an unknown parameter is refused");
}

/// A value that fits a property.
fn example(property: &Value) -> Value {
    match (property.get("default"), property.get("enum"), property["type"].as_str()) {
        (Some(default), ..) => default.clone(),
        (_, Some(choices), _) => choices[0].clone(),
        (.., Some("string")) => "x".into(),
        (.., Some("integer")) => 1.into(),
        (.., Some("boolean")) => true.into(),
        (.., Some("array")) => Value::Array(Vec::new()),
        (.., Some("object")) => Value::Object(Map::new()),
        (.., other) => panic!("unexpected type {other:?}"),
    }
}
