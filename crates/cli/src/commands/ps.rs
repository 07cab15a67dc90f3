//! `ps`: containers with their pods.

use jiff::Timestamp;
use serde::Serialize;

use super::connect;
use crate::args::PsArgs;
use crate::print;
use crate::target::{Found, Inventory, state_name};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    pod: String,
    container: String,
    state: &'static str,
    image: String,
    /// Nanoseconds since the epoch.
    created_at: i64,
    attempt: u32,
    id: String,
    sandbox_id: String,
}

impl From<&Found> for Row {
    fn from(one: &Found) -> Self {
        Self {
            namespace: one.namespace.clone(),
            pod: one.pod.clone(),
            container: one.name.clone(),
            state: state_name(one.state),
            image: one.image.clone(),
            created_at: one.created_at,
            attempt: one.attempt,
            id: one.id.clone(),
            sandbox_id: one.sandbox_id.clone(),
        }
    }
}

pub(super) async fn run(args: &PsArgs) -> anyhow::Result<()> {
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    let rows: Vec<Row> = all
        .containers
        .iter()
        .filter(|one| args.all || one.running())
        .filter(|one| args.namespace.as_ref().is_none_or(|name| one.namespace == *name))
        .map(Row::from)
        .collect();
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let headings = ["NAMESPACE", "POD", "CONTAINER", "STATE", "AGE", "IMAGE", "ID"];
    print::rows(args.result.output, &rows, &headings, |row| {
        vec![
            row.namespace.clone(),
            row.pod.clone(),
            row.container.clone(),
            row.state.to_owned(),
            print::age(row.created_at, now),
            row.image.clone(),
            print::short(&row.id).to_owned(),
        ]
    })
}
