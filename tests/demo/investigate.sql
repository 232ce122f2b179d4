-- Walked by psql with each statement shown before its answer. What is between ECHO none and ECHO queries is for
-- the script: it keeps a value for the next step, or checks an answer.
\set ECHO none
\pset null '(null)'
SET search_path = public, threadline;
CREATE FUNCTION pg_temp.expect(what text, holds boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE 'the demonstration found a wrong answer: not so: %', what;
    END IF;
    RETURN 'checked: ' || what;
END $$;

\echo '1. THE ALARM. Every transaction adds the same amount to one account, one teller, one branch and the history,'
\echo '   so the four sums must agree.'
\set ECHO queries
SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
       (SELECT sum(bbalance) FROM pgbench_branches) AS branches, (SELECT sum(delta) FROM pgbench_history) AS history;
\set ECHO none
\gset sum_
\t on
SELECT pg_temp.expect('tellers, branches and history agree, the accounts are off by exactly what the job added',
    :sum_tellers = :sum_branches AND :sum_branches = :sum_history AND :sum_accounts - :sum_branches = :truth_amount);
\t off

\echo '2. WHO DID IT. The same sums transaction by transaction, over the captured changes: one does not add up.'
\set ECHO queries
SELECT t.id AS guilty, t.committed_at, t.actor_ref, t.job_id, s.accounts, s.tellers, s.branches, s.history
FROM (
    SELECT transaction_id,
           coalesce(sum((data_after->>'abalance')::int - (changed_from->>'abalance')::int), 0) AS accounts,
           coalesce(sum((data_after->>'tbalance')::int - (changed_from->>'tbalance')::int), 0) AS tellers,
           coalesce(sum((data_after->>'bbalance')::int - (changed_from->>'bbalance')::int), 0) AS branches,
           coalesce(sum((data_after->>'delta')::int), 0) AS history
    FROM audit_changes WHERE op <> 'snapshot'
    GROUP BY transaction_id
) s
JOIN audit_transactions t ON t.id = s.transaction_id
WHERE (s.accounts, s.tellers, s.branches) <> (s.history, s.history, s.history);
\set ECHO none
\gset
SELECT :'committed_at'::timestamptz - interval '1 minute' AS window_start, :'committed_at'::timestamptz + interval '1 minute' AS window_end,
       :'committed_at'::timestamptz - interval '1 microsecond' AS before_commit \gset
SELECT table_pk AS key, table_pk->>'aid' AS aid, captured_at - interval '1 microsecond' AS before
FROM audit_changes WHERE transaction_id = :'guilty' ORDER BY id LIMIT 1 \gset
\t on
SELECT pg_temp.expect('exactly one transaction does not add up, and it is the job''s', :'guilty' = :'truth_transaction');
SELECT pg_temp.expect('every change of every transaction was captured',
    count(*) = 4 * :transactions + :truth_rows) FROM audit_changes WHERE op <> 'snapshot';
\t off

\x on
\echo '3. SINGLE-TRANSACTION DRILLDOWN. The playbook''s SQL, then the function.'
\set ECHO queries
SELECT
  ac.id,
  ac.table_name,
  ac.table_pk,
  ac.op,
  ac.changed_fields,
  ac.changed_from,
  ac.data_after,
  ac.captured_at
FROM audit_changes ac
WHERE ac.transaction_id = :'guilty'::uuid
ORDER BY ac.captured_at DESC, ac.id DESC;
\set ECHO none
\x off
\t on
SELECT pg_temp.expect('all the changes of the transaction are there', count(*) = :truth_rows) FROM audit_changes WHERE transaction_id = :'guilty';
\echo '   The bundle says it all at once; here with the first change only.'
\pset format unaligned
\set ECHO queries
SELECT jsonb_pretty(jsonb_set(b, '{changes}', jsonb_path_query_array(b, '$.changes[0]')))
FROM incident_bundle(:'guilty') b;
\set ECHO none
\pset format aligned
SELECT pg_temp.expect('the bundle holds every change', jsonb_array_length(incident_bundle(:'guilty')->'changes') = :truth_rows);
\t off

\x on
\echo '4. WHO CHANGED THIS ROW AT TIME T? One of the accounts, in the two minutes around it.'
\set ECHO queries
SELECT
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
WHERE ac.table_name = 'pgbench_accounts'
  AND ac.table_pk @> :'key'::jsonb
  AND ac.captured_at >= :'window_start'::timestamptz
  AND ac.captured_at <= :'window_end'::timestamptz
ORDER BY ac.captured_at DESC, ac.id DESC;
\x off
SELECT id, op, changed_fields, changed_from, captured_at, actor_ref, action_name
FROM audit_history('pgbench_accounts', :aid, since => :'window_start', until => :'window_end');
\set ECHO none

\x on
\echo '5. WHAT DID THIS SERVICE ACCOUNT DO TODAY?'
\set ECHO queries
SELECT
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
WHERE at.actor_ref @> '{"type":"service_account","id":"billing-nightly"}'::jsonb
  AND at.occurred_at >= date_trunc('day', now() AT TIME ZONE 'utc')
ORDER BY at.occurred_at DESC, ac.captured_at DESC, ac.id DESC;
\x off
SELECT t.id, t.occurred_at, c.table_name, c.table_pk, c.op, change_diff(c.id)
FROM actor_history('{"type":"service_account","id":"billing-nightly"}', since => date_trunc('day', now())) t
CROSS JOIN LATERAL audit_changes_for_transaction(t.id) c;
\set ECHO none
\t on
SELECT pg_temp.expect('today the service account changed what the job changed, and nothing else', count(*) = :truth_rows)
FROM actor_history('{"type":"service_account","id":"billing-nightly"}') t
CROSS JOIN LATERAL audit_changes_for_transaction(t.id) c;
\t off

\x on
\echo '6. DID THIS JOB ACTUALLY MUTATE THE DB?'
\set ECHO queries
SELECT
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
WHERE ac.transaction_id = :'guilty'::uuid
ORDER BY ac.captured_at DESC, ac.id DESC;
\x off
SELECT c.id, c.table_name, c.op, change_diff(c.id)->'field_changes' AS field_changes
FROM audit_changes_for_transaction(:'guilty') c;
\set ECHO none
\t on
SELECT pg_temp.expect('the job''s action is linked to its changes', bool_and(aa.job_id = 'billing:nightly:42' AND aa.correlation_id = 'billing-2024-03-15'))
FROM audit_transactions at JOIN audit_actions aa ON aa.id = at.action_id WHERE at.id = :'guilty';
\t off

\x on
\echo '7. WHAT DID THIS ROW LOOK LIKE AT TIME T? Just before the job.'
\set ECHO queries
SELECT
  ac.op,
  ac.data_after,
  ac.changed_fields,
  ac.changed_from,
  ac.captured_at
FROM audit_changes ac
WHERE ac.table_name = 'pgbench_accounts'
  AND ac.table_pk @> :'key'::jsonb
  AND ac.captured_at <= :'before'::timestamptz
ORDER BY ac.captured_at ASC, ac.id ASC;
SELECT * FROM audit_as_of('pgbench_accounts', :aid, :'before');
\x off
\set ECHO none
\t on
SELECT pg_temp.expect('as of then the account is what the job found',
    (a.row_data->>'abalance')::int = (c.changed_from->>'abalance')::int)
FROM audit_as_of('pgbench_accounts', :aid, :'before') a, audit_changes c
WHERE c.transaction_id = :'guilty' AND c.table_pk = :'key';
\t off

\echo '8. WERE THE BOOKS RIGHT BEFORE IT? The alarm''s question, asked of the past: just before, and at its commit.'
\set ECHO queries
SELECT at, (SELECT sum(abalance) FROM audit_as_of(NULL::pgbench_accounts, at)) AS accounts,
       (SELECT sum(tbalance) FROM audit_as_of(NULL::pgbench_tellers, at)) AS tellers,
       (SELECT sum(bbalance) FROM audit_as_of(NULL::pgbench_branches, at)) AS branches,
       (SELECT sum(delta) FROM audit_as_of(NULL::pgbench_history, at)) AS history
FROM (VALUES (:'before_commit'::timestamptz), (:'committed_at')) moment (at);
\set ECHO none
SELECT array_agg(accounts - branches ORDER BY at) AS off_by, bool_and(tellers = branches AND branches = history) AS others_agree
FROM (
    SELECT at, (SELECT sum(abalance) FROM audit_as_of(NULL::pgbench_accounts, at)) AS accounts,
           (SELECT sum(tbalance) FROM audit_as_of(NULL::pgbench_tellers, at)) AS tellers,
           (SELECT sum(bbalance) FROM audit_as_of(NULL::pgbench_branches, at)) AS branches,
           (SELECT sum(delta) FROM audit_as_of(NULL::pgbench_history, at)) AS history
    FROM (VALUES (:'before_commit'::timestamptz), (:'committed_at')) moment (at)
) s \gset
\t on
SELECT pg_temp.expect('the books agree a microsecond before, and are off by the job''s amount at its commit',
    :'off_by' = format('{0,%s}', :truth_amount::bigint) AND :'others_agree');
\t off

\echo '   The alarm''s query again, word for word, with the session in the past.'
\set ECHO queries
BEGIN;
SELECT in_the_past FROM time_travel(:'before_commit');
SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
       (SELECT sum(bbalance) FROM pgbench_branches) AS branches, (SELECT sum(delta) FROM pgbench_history) AS history \gset past_
SELECT :past_accounts AS accounts, :past_tellers AS tellers, :past_branches AS branches, :past_history AS history;
COMMIT;
\set ECHO none
\t on
SELECT pg_temp.expect('in the past the four sums agree, and the transaction''s end brings the session back',
    :past_accounts = :past_tellers AND :past_tellers = :past_branches AND :past_branches = :past_history AND time_travelling_at() IS NULL);
\t off

\echo '9. WHAT DID IT COME TO? The net effect on each account from just before its commit.'
\set ECHO queries
SELECT op, table_pk, changed_fields, before -> 'abalance' AS before, after -> 'abalance' AS after, changes
FROM audit_diff('pgbench_accounts', :'before_commit', :'committed_at')
ORDER BY (table_pk ->> 'aid')::int;
\set ECHO none
\t on
SELECT pg_temp.expect('the difference is the job''s amount, in the job''s rows',
    count(*) = :truth_rows AND sum((after ->> 'abalance')::int - (before ->> 'abalance')::int) = :truth_amount)
FROM audit_diff('pgbench_accounts', :'before_commit', :'committed_at');
\t off

\echo '10. WHICH INVARIANT BROKE, AND WHEN FIRST? What must be true is said as a model; every commit since capture began is replayed through it.'
\set ECHO queries
SELECT replay_define_model('books', 'the four sums of a bank agree after every commit');
SELECT replay_add_invariant('books', 'accounts_equal_branches', 'balance', '{"table": "pgbench_accounts", "aggregate": "sum(abalance)", "equals": 0,
    "and": [{"table": "pgbench_branches", "aggregate": "sum(-bbalance)"}]}');
SELECT replay_add_invariant('books', 'tellers_equal_branches', 'balance', '{"table": "pgbench_tellers", "aggregate": "sum(tbalance)", "equals": 0,
    "and": [{"table": "pgbench_branches", "aggregate": "sum(-bbalance)"}]}');
CREATE TEMP TABLE found AS SELECT replay_check('books') AS result;
SELECT invariant, transaction_id, committed_at, actor_ref, reason FROM found, replay_violations(result);
\pset format unaligned
SELECT replay_report(result) FROM found;
\pset format aligned
\set ECHO none
\t on
SELECT pg_temp.expect('the first violation is the job''s transaction', count(*) = 1 AND bool_and(transaction_id = :'truth_transaction'::uuid))
FROM found, replay_violations(result);
\pset format unaligned
\o :test_file
SELECT replay_regression_test(result) FROM found;
\o
\pset format aligned
\t off
SELECT count(*) > 0 AS has_pgtap FROM pg_available_extensions WHERE name = 'pgtap' \gset
\if :has_pgtap
\echo '   As a test for the future, run by pgTAP where the failure is on record:'
\! "$PGBIN/psql" -X -q -A -t -f "$TEST_FILE" bank 2>&1 | grep ok
\set outcome `"$PGBIN/psql" -X -q -A -t -f "$TEST_FILE" bank 2>&1 | grep -c '^not ok'`
\t on
SELECT pg_temp.expect('the test fails while the books do not agree', :outcome = 1);
\t off
\else
\echo '   A test for the future is written; this server has no pgTAP to run it.'
\endif

\echo '11. TAKE IT BACK. First what would be done, rehearsed: an account that was used since would be left, and said to be.'
\set ECHO queries
SELECT status, statement, detail FROM audit_revert(:'guilty', mode => 'nonconflict_only') ORDER BY step;
\set ECHO none
\t on
SELECT pg_temp.expect('the rehearsal changed nothing', (SELECT sum(abalance) FROM pgbench_accounts) = :sum_accounts);
\t off
\set ECHO queries
SELECT status, count(*) FROM audit_revert(:'guilty', mode => 'nonconflict_only', dry_run => false, confirm => true) GROUP BY status ORDER BY status;
SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
       (SELECT sum(bbalance) FROM pgbench_branches) AS branches, (SELECT sum(delta) FROM pgbench_history) AS history;
SELECT a.name, t.change_count FROM audit_actions a JOIN audit_transactions t ON t.action_id = a.id WHERE a.name = 'threadline.revert';
\set ECHO none
\t on
SELECT pg_temp.expect('the books agree again, but for what the job gave to accounts that were used since',
    (SELECT sum(abalance) FROM pgbench_accounts) - :sum_branches = coalesce(sum(10 * ((c.table_pk ->> 'aid')::int % 7 + 1)), 0))
FROM audit_changes_for_transaction(:'guilty') c
WHERE EXISTS (SELECT FROM audit_history('pgbench_accounts', (c.table_pk ->> 'aid')::bigint) h
              WHERE h.id > c.id AND h.action_name IS DISTINCT FROM 'threadline.revert');
\t off

\if :has_pgtap
\echo '   The test again:'
\! "$PGBIN/psql" -X -q -A -t -f "$TEST_FILE" bank 2>&1 | grep ok
\set outcome `"$PGBIN/psql" -X -q -A -t -f "$TEST_FILE" bank 2>&1 | grep -c '^ok'`
\t on
SELECT pg_temp.expect('it passes once the books agree again', (:outcome = 1) = ((SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)));
\t off
\endif

\echo '12. CAN THE HISTORY BE TRUSTED? Replayed from the baseline, it must give the tables as they are.'
\set ECHO queries
SELECT t AS table_name, r->>'verdict' AS verdict, r->>'events_processed' AS events, r->>'transactions' AS transactions, r->>'complete' AS complete
FROM unnest(ARRAY['pgbench_accounts', 'pgbench_branches', 'pgbench_tellers', 'pgbench_history']) t
CROSS JOIN LATERAL replay_check(t) r;
\set ECHO none
\t on
SELECT pg_temp.expect('the history of ' || t || ' is its contents', replay_check(t::regclass)->>'verdict' = 'holds')
FROM unnest(ARRAY['pgbench_accounts', 'pgbench_branches', 'pgbench_tellers', 'pgbench_history']) t;
