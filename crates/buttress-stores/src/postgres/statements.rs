//! The statements, written once for the tables of a store.

use super::{
    record::{COLUMNS, WRITES},
    schema::Tables,
};

pub(super) struct Statements {
    /// workflow, namespace -> now, and the state of the chain where there is one.
    pub(super) state: String,
    /// workflow -> now, and the state of every chain.
    pub(super) states: String,
    /// workflow, namespace -> the head, if only its number.
    pub(super) latest: String,
    /// workflow, namespace, sequence -> that checkpoint.
    pub(super) get: String,
    /// workflow, namespace, write id -> that checkpoint.
    pub(super) written: String,
    /// workflow, namespace, before, limit -> checkpoints, newest first.
    pub(super) history: String,
    /// workflow, namespace (both to go on behind), workflow, namespace (both to pick), limit.
    pub(super) list: String,
    /// workflow, namespace, sequence, write id, header, state, checksum.
    pub(super) put: String,
    /// As `put`, and how many stay.
    pub(super) put_and_prune: String,
    /// workflow, namespace.
    pub(super) touch: String,
    /// chain, sequence, tasks, kinds, places, values, checksums.
    pub(super) put_writes: String,
    /// workflow, namespace, token, owner, until.
    pub(super) lease: String,
    /// workflow.
    pub(super) delete_checkpoints: String,
    /// workflow.
    pub(super) delete_heads: String,
    /// workflow, namespace, how many stay.
    pub(super) prune: String,
}

const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const STATE: &str =
    "s.chain, s.last, s.head, s.token, s.owner, s.until, s.workflow_id, s.namespace";
const CHAIN: &str = "s.workflow_id = $1 AND s.namespace = $2";

// ===== impl Statements =====

impl Statements {
    pub(super) fn new(tables: &Tables) -> Self {
        let sql = |sql: &str| tables.sql(sql);
        // Of a chain's checkpoints; those that are missing leave a row with the head's number.
        let of = |on: &str, rest: &str| {
            tables.sql(&format!(
                "SELECT {COLUMNS} FROM {{p}}chains s
                JOIN {{p}}checkpoints c ON c.chain = s.chain {on} {WRITES} {rest}"
            ))
        };
        let heads = |rest: &str| {
            tables.sql(&format!(
                "SELECT {COLUMNS} FROM {{p}}chains s
                LEFT JOIN {{p}}checkpoints c ON c.chain = s.chain AND c.sequence = s.head {WRITES}
                WHERE s.head IS NOT NULL AND {rest}"
            ))
        };
        Self {
            state: sql(&format!(
                "SELECT {NOW}, {STATE} FROM (SELECT 1) one LEFT JOIN {{p}}chains s ON {CHAIN}"
            )),
            states: sql(&format!(
                "SELECT {NOW}, {STATE} FROM {{p}}chains s WHERE s.workflow_id = $1"
            )),
            latest: heads(CHAIN),
            get: of("", &format!("WHERE {CHAIN} AND c.sequence = $3")),
            written: of("", &format!("WHERE {CHAIN} AND c.write_id = $3")),
            history: of(
                "",
                &format!("WHERE {CHAIN} AND c.sequence < $3 ORDER BY c.sequence DESC LIMIT $4"),
            ),
            list: heads(
                "($1::text IS NULL OR (s.workflow_id, s.namespace) > ($1, $2))
                AND ($3::text IS NULL OR s.workflow_id = $3)
                AND ($4::text IS NULL OR s.namespace = $4)
                ORDER BY s.workflow_id, s.namespace LIMIT $5",
            ),
            put: sql(&put("")),
            put_and_prune: sql(&put(PRUNE_WITH_PUT)),
            touch: sql(
                "UPDATE {p}chains SET last = last WHERE workflow_id = $1 AND namespace = $2",
            ),
            put_writes: sql(PUT_WRITES),
            lease: sql("INSERT INTO {p}chains (workflow_id, namespace, token, owner, until)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (workflow_id, namespace)
                DO UPDATE SET token = $3, owner = $4, until = $5"),
            delete_checkpoints: sql("DELETE FROM {p}checkpoints c USING {p}chains s
                WHERE c.chain = s.chain AND s.workflow_id = $1"),
            delete_heads: sql("UPDATE {p}chains SET head = NULL, owner = NULL, until = NULL
                WHERE workflow_id = $1"),
            prune: sql(&format!(
                "WITH s AS (SELECT chain FROM {{p}}chains s WHERE {CHAIN})
                DELETE FROM {{p}}checkpoints c USING s WHERE c.chain = s.chain AND c.sequence <=
                (SELECT o.sequence FROM {{p}}checkpoints o WHERE o.chain = s.chain
                ORDER BY o.sequence DESC OFFSET $3 LIMIT 1)"
            )),
        }
    }
}

/// Writes the head and the checkpoint; one whose write id is there already is not written.
fn put(with: &str) -> String {
    format!(
        "WITH s AS (
            INSERT INTO {{p}}chains (workflow_id, namespace, last, head) VALUES ($1, $2, $3, $3)
            ON CONFLICT (workflow_id, namespace) DO UPDATE SET last = $3, head = $3
            RETURNING chain
        ) {with}
        INSERT INTO {{p}}checkpoints (chain, sequence, write_id, header, state, checksum)
        SELECT chain, $3, $4, $5, $6, $7 FROM s
        ON CONFLICT (chain, write_id) DO NOTHING"
    )
}

/// Sees the table as it was before the put, which is one of those that stay.
const PRUNE_WITH_PUT: &str = ", pruned AS (
    DELETE FROM {p}checkpoints c USING s WHERE c.chain = s.chain AND c.sequence <=
    (SELECT o.sequence FROM {p}checkpoints o WHERE o.chain = s.chain
    ORDER BY o.sequence DESC OFFSET $8 - 1 LIMIT 1)
)";

const PUT_WRITES: &str = "
    INSERT INTO {p}writes (chain, sequence, task, kind, place, value, checksum)
    SELECT $1, $2, * FROM unnest($3, $4, $5, $6, $7)
    ON CONFLICT (chain, sequence, sha256(task), kind, place)
    DO UPDATE SET value = excluded.value, checksum = excluded.checksum
    WHERE {p}writes.kind <> 'result'";
