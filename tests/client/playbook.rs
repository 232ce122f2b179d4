//! The incident playbook's raw SQL recipes, as people have them, against the views.

use crate::support::{Database, Session};

const WHO_CHANGED_THIS_ROW: &str = r#"SELECT
  ac.id,
  ac.table_name,
  ac.table_pk,
  ac.op,
  ac.changed_fields,
  ac.changed_from,
  ac.data_after,
  ac.captured_at,
  at.actor_ref
FROM audit_changes ac
JOIN audit_transactions at
  ON at.id = ac.transaction_id
WHERE ac.table_name = 'users'
  AND ac.table_pk @> '{"id":"123"}'::jsonb
  AND ac.captured_at >= '$since'::timestamptz
  AND ac.captured_at <= '$until'::timestamptz
ORDER BY ac.captured_at DESC, ac.id DESC;"#;

const WHAT_DID_THE_ACCOUNT_DO: &str = r#"SELECT
  at.id AS transaction_id,
  at.occurred_at,
  ac.table_name,
  ac.table_pk,
  ac.op,
  ac.changed_fields,
  ac.changed_from,
  ac.data_after
FROM audit_transactions at
JOIN audit_changes ac
  ON ac.transaction_id = at.id
WHERE at.actor_ref @> '{"type":"service_account","id":"service-acct-uuid"}'::jsonb
  AND at.occurred_at >= date_trunc('day', now() AT TIME ZONE 'utc')
ORDER BY at.occurred_at DESC, ac.captured_at DESC, ac.id DESC;"#;

const DID_THE_JOB_MUTATE: &str = r#"SELECT
  ac.id,
  ac.table_name,
  ac.table_pk,
  ac.op,
  ac.changed_fields,
  ac.changed_from,
  ac.data_after,
  aa.job_id,
  aa.correlation_id
FROM audit_changes ac
JOIN audit_transactions at
  ON at.id = ac.transaction_id
LEFT JOIN audit_actions aa
  ON aa.id = at.action_id
WHERE ac.transaction_id = '$transaction'::uuid
ORDER BY ac.captured_at DESC, ac.id DESC;"#;

const WHAT_DID_THE_ROW_LOOK_LIKE: &str = r#"SELECT
  ac.op,
  ac.data_after,
  ac.changed_fields,
  ac.changed_from,
  ac.captured_at
FROM audit_changes ac
WHERE ac.table_name = 'users'
  AND ac.table_pk @> '{"id":"123"}'::jsonb
  AND ac.captured_at <= '$until'::timestamptz
ORDER BY ac.captured_at ASC, ac.id ASC;"#;

const ONE_TRANSACTION: &str = r#"SELECT
  ac.id,
  ac.table_name,
  ac.table_pk,
  ac.op,
  ac.changed_fields,
  ac.changed_from,
  ac.data_after,
  ac.captured_at
FROM audit_changes ac
WHERE ac.transaction_id = '$transaction'::uuid
ORDER BY ac.captured_at DESC, ac.id DESC;"#;

struct Incident {
    _db: Database,
    s: Session,
    since: String,
    until: String,
    transaction: String,
}

fn incident() -> Incident {
    let db = Database::new("playbook");
    let mut s = db.session();
    s.run("CREATE TABLE users (id bigint PRIMARY KEY, email text, balance numeric); CREATE TABLE posts (id uuid PRIMARY KEY, author bigint); SELECT threadline.audit_enable('users'); SELECT threadline.audit_enable('posts')");
    s.run("BEGIN; SELECT threadline.set_actor('user', 'u-1'); INSERT INTO users VALUES (123, 'a@example.org', 10), (124, 'b@example.org', 10), (1230, 'c@example.org', 10); COMMIT");
    let since = s.one("SELECT clock_timestamp()");
    s.run("BEGIN; SELECT threadline.set_actor('service_account', 'service-acct-uuid'); SELECT threadline.record_action('billing.run', job_id => 'oban-77', correlation_id => 'corr-9')");
    s.run("UPDATE users SET balance = balance + 1 WHERE id < 1000; INSERT INTO posts VALUES ('00112233-4455-6677-8899-aabbccddeeff', 123)");
    let transaction = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("COMMIT");
    let until = s.one("SELECT clock_timestamp()");
    s.run("BEGIN; SELECT threadline.set_actor('admin', 'root'); DELETE FROM users WHERE id = 123; COMMIT");
    s.run("SET search_path = threadline, public; SET TimeZone = 'UTC'");
    Incident { _db: db, s, since, until, transaction }
}

impl Incident {
    fn ask(&mut self, recipe: &str) -> Vec<Vec<String>> {
        let sql = recipe
            .replace("$since", &self.since)
            .replace("$until", &self.until)
            .replace("$transaction", &self.transaction);
        let rows = self.s.rows(&sql);
        rows.into_iter().map(|row| row.into_iter().map(|v| v.unwrap_or_else(|| "NULL".into())).collect()).collect()
    }
}

#[test]
fn the_five_recipes_run_unchanged() {
    let mut i = incident();
    let who = i.ask(WHO_CHANGED_THIS_ROW);
    assert_eq!(who.len(), 1);
    assert_eq!(
        who[0][1..7],
        [
            "users",
            r#"{"id": "123"}"#,
            "update",
            "{balance}",
            r#"{"balance": 10}"#,
            r#"{"id": 123, "email": "a@example.org", "balance": 11}"#
        ]
    );
    assert_eq!(who[0][8], r#"{"id": "service-acct-uuid", "type": "service_account"}"#);

    let did = i.ask(WHAT_DID_THE_ACCOUNT_DO);
    assert_eq!(did.len(), 3);
    assert!(did.iter().all(|row| row[0] == i.transaction), "{did:?}");
    assert_eq!(did[0][2..5], ["posts", r#"{"id": "00112233-4455-6677-8899-aabbccddeeff"}"#, "insert"], "newest first");

    let job = i.ask(DID_THE_JOB_MUTATE);
    assert_eq!(job.len(), 3);
    assert!(job.iter().all(|row| row[7] == "oban-77" && row[8] == "corr-9"), "{job:?}");

    let looked = i.ask(WHAT_DID_THE_ROW_LOOK_LIKE);
    let story: Vec<&str> = looked.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(story, ["insert", "update"]);
    assert_eq!(looked[1][1], r#"{"id": 123, "email": "a@example.org", "balance": 11}"#);

    let one = i.ask(ONE_TRANSACTION);
    assert_eq!(one.len(), 3);
    assert!(one.iter().all(|row| row[7] >= i.since && row[7] <= i.until), "{one:?}");
}

#[test]
fn a_job_that_changed_nothing_has_no_rows() {
    let mut i = incident();
    i.s.run("BEGIN; SELECT threadline.record_action('noop.run', job_id => 'oban-78')");
    i.transaction = i.s.one("SELECT threadline.current_audit_transaction_id()");
    i.s.run("UPDATE public.users SET balance = 0 WHERE id = -1; COMMIT");
    assert!(i.ask(DID_THE_JOB_MUTATE).is_empty());
    assert!(i.ask(ONE_TRANSACTION).is_empty());
}

#[test]
fn the_functions_answer_the_same_questions() {
    let mut i = incident();
    let (since, until, transaction) = (i.since.clone(), i.until.clone(), i.transaction.clone());
    let ids = |i: &mut Incident, sql: &str| i.s.column(sql);
    assert_eq!(
        ids(&mut i, &format!("SELECT id FROM audit_history('users', 123, '{since}', '{until}')")),
        ids(
            &mut i,
            &format!(
                "SELECT id FROM audit_changes WHERE table_name = 'users' AND table_pk @> '{{\"id\":\"123\"}}' AND captured_at BETWEEN '{since}' AND '{until}'"
            )
        )
    );
    assert_eq!(
        ids(&mut i, "SELECT id FROM actor_history('{\"type\":\"service_account\",\"id\":\"service-acct-uuid\"}')"),
        [transaction.as_str()]
    );
    assert_eq!(i.s.number(&format!("SELECT count(*) FROM audit_changes_for_transaction('{transaction}')")), 3);
    assert_eq!(i.s.one(&format!("SELECT row_data ->> 'balance' FROM audit_as_of('users', 123, '{until}')")), "11");
    assert_eq!(i.s.number(&format!("SELECT jsonb_array_length(incident_bundle('{transaction}') -> 'changes')")), 3);
}
