-- What ours checks. "never_negative" is the question that every contender answers; it is checked at each commit, and since no
-- transaction moves an account twice, that is after each event.
BEGIN;
SELECT threadline.replay_define_model('bench_one', 'one invariant over the log') \g /dev/null
SELECT threadline.replay_add_invariant('bench_one', 'never_negative', 'key_bound',
    '{"table": "acct", "key": "id", "aggregate": "sum(balance)", "check": "value >= 0"}') \g /dev/null

-- All of the others hold, and each has something to do at every event or, rate to deadline, looks at it.
SELECT threadline.replay_define_model('bench_ten', 'ten invariants over the log') \g /dev/null
SELECT threadline.replay_add_invariant('bench_ten', i.name, i.kind, i.spec)
FROM (VALUES
    ('never_negative', 'key_bound', '{"table": "acct", "key": "id", "aggregate": "sum(balance)", "check": "value >= 0"}'::jsonb),
    ('owner_solvent', 'key_bound', '{"table": "acct", "key": "owner", "aggregate": "sum(balance)", "check": "value >= 0"}'),
    ('amount_limit', 'row', '{"table": "acct", "check": "abs(new.amount) <= 5000000 AND new.moves >= 0"}'),
    ('nothing_lost', 'balance', jsonb_build_object('table', 'acct', 'aggregate', 'sum(balance)', 'equals', 1000000::bigint * :keys)),
    ('status_graph', 'transition', '{"table": "acct", "column": "status", "initial": ["new"], "allowed": {"new": ["open"], "open": ["held", "closed"], "held": ["open"]}, "terminal": ["closed"]}'),
    ('one_reference', 'unique', '{"table": "acct", "columns": ["reference"]}'),
    ('moves_counted', 'monotone', '{"table": "acct", "column": "moves", "strict": true}'),
    ('few_holds', 'rate', '{"table": "acct", "event": "new.status = ''held'' AND old.status = ''open''", "at_most": 1000, "per": "1 hour"}'),
    ('opened_before_held', 'requires', '{"table": "acct", "event": "new.status = ''held'' AND old.status = ''open''", "earlier": "new.status = ''open''", "within": "1 day"}'),
    ('holds_end', 'deadline', '{"table": "acct", "open": "new.status = ''held''", "close": "new.status = ''open''", "within": "1 day"}')
) AS i (name, kind, spec) \g /dev/null

SELECT threadline.replay_define_model('bench_events', 'one projection of a log that is not ours') \g /dev/null
SELECT threadline.replay_add_projection('bench_events', 'account', NULL, 'event ->> ''key''', '{"balance": 0}',
    'jsonb_build_object(''balance'', (state ->> ''balance'')::bigint + (event ->> ''amount'')::bigint)') \g /dev/null
SELECT threadline.replay_add_invariant('bench_events', 'never_negative', 'projection',
    '{"projection": "account", "check": "(state ->> ''balance'')::bigint >= 0"}', check_at => 'event') \g /dev/null
COMMIT;
