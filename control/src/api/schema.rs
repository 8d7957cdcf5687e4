//! `docs/api.schema.json`: the JSON schema of requests and replies, made from the types that write them.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Command, Line, Reply};
use crate::daemon::schema::Shown;
use crate::explain::Explanation;
use crate::trace::report::{CaptureStart, PacketReport, WayReport};

/// A request: a command with the version beside it.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Request {
    /// 1.
    version: u64,
    #[serde(flatten)]
    command: Command,
}

/// The schema, as it stands in the file.
fn schema() -> String {
    let mut generator = schemars::SchemaGenerator::default();
    let mut of = BTreeMap::new();
    of.insert("request", generator.subschema_for::<Request>());
    of.insert("reply", generator.subschema_for::<Reply>());
    of.insert("line", generator.subschema_for::<Line>());
    of.insert("shown", generator.subschema_for::<Shown>());
    of.insert("explained", generator.subschema_for::<Explanation>());
    of.insert("traced", generator.subschema_for::<WayReport>());
    of.insert("capture", generator.subschema_for::<CaptureStart>());
    of.insert("captured", generator.subschema_for::<PacketReport>());
    let definitions = generator.take_definitions(true);
    let any: Vec<Value> = of.values().map(|schema| json!(schema)).collect();
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The local API of culvert, as this version of it speaks: docs/api.md",
        "anyOf": any,
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&whole).expect("a schema") + "\n"
}

/// The file is what the types say. `CULVERT_WRITE=1 cargo test -p culvert schema` brings it up to date.
#[test]
fn the_schema_is_that_of_the_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.schema.json");
    if std::env::var_os("CULVERT_WRITE").is_some() {
        std::fs::write(&file, schema()).expect("the file");
    }
    let committed = std::fs::read_to_string(&file).expect("docs/api.schema.json");
    assert!(
        committed == schema(),
        "docs/api.schema.json is old: CULVERT_WRITE=1 cargo test -p culvert schema"
    );
}
