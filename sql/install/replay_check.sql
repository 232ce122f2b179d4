-- The face of replay_check() for names, of models and of tables. No SET search_path: what is a table's name is as the caller types it.

CREATE FUNCTION threadline.replay_check(what text, since timestamptz = '-infinity', until timestamptz = 'infinity', stop_on_first_failure boolean = true,
                                        invariants text[] = NULL, projections text[] = NULL, events text = NULL)
RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_relation regclass;
    v_is_model constant boolean := EXISTS (SELECT FROM threadline.replay_models m WHERE m.model = replay_check.what);
    v_given constant text := pg_catalog.concat_ws(', ',
        CASE WHEN replay_check.since > '-infinity' THEN 'since' END,
        CASE WHEN replay_check.until < 'infinity' THEN 'until' END,
        CASE WHEN replay_check.invariants IS NOT NULL THEN 'invariants' END,
        CASE WHEN replay_check.projections IS NOT NULL THEN 'projections' END,
        CASE WHEN replay_check.events IS NOT NULL THEN 'events' END);
BEGIN
    BEGIN
        v_relation := pg_catalog.to_regclass(replay_check.what);
    EXCEPTION WHEN invalid_name THEN
        v_relation := NULL;
    END;
    IF v_is_model AND v_relation IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ambiguous_function',
            MESSAGE = pg_catalog.format('"%s" is a model and a table', replay_check.what),
            HINT = pg_catalog.format('SELECT threadline.replay_check(%L::regclass); checks the table. To check the model, SET search_path to schemas without the table.', replay_check.what);
    END IF;
    IF v_is_model THEN
        RETURN threadline.check_model(threadline.run_request(replay_check.what, replay_check.since, replay_check.until,
            coalesce(replay_check.stop_on_first_failure, true), replay_check.invariants, replay_check.projections, replay_check.events));
    END IF;
    IF v_relation IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = pg_catalog.format('there is no model or table named "%s"', replay_check.what),
            HINT = 'SELECT model FROM threadline.replay_models; and SELECT table_schema, table_name FROM threadline.audit_tables; list what can be checked.';
    END IF;
    IF v_given <> '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('the check of table "%s" does not take %s', replay_check.what, v_given),
            DETAIL = 'A table is checked from its newest baseline to what it holds now, for the invariants history_equals_table and history_is_continuous.',
            HINT = pg_catalog.format('SELECT threadline.replay_check(%L);', replay_check.what);
    END IF;
    RETURN threadline.replay_check(v_relation);
END
$$;
COMMENT ON FUNCTION threadline.replay_check(text, timestamptz, timestamptz, boolean, text[], text[], text) IS
$$Replays recorded history through a model (replay_define_model), from the oldest baseline of its tables on, in commit order, and says where each invariant stops to hold; with a table's name, checks that table as replay_check(regclass) does.
since, until: which violations are reported, by commit time, and how far it goes; one that was there already at since has already_false. stop_on_first_failure: only the first violation of severity error, if there is one, and no more is read. invariants, projections: names of those to take, all by default. events: the text of a query for (seq bigint, at timestamptz, event jsonb), an event log from elsewhere, which the projections without a source table take in the order of seq.
JSON: verdict (holds; violated; unknown where nothing fails but a gap, redaction or the horizon hides something), events_processed, transactions, final_state, projections (states by key, 1000 at most), skipped (by reason), complete, coverage (with gaps: why it is not complete), invariants (the verdict of each), pending (deadlines not yet due), violations_total and violations, in the order of their finding, the first 1000 and the first of each invariant: invariant, kind, severity, key, table_pk, failure_reason, failure_step (0-based among the events replayed), change_id, event_at_failure, state_before, state_after, state_diff, events_leading_to_failure (10 at most), transaction, first_repaired_at, fingerprint (the same for the same failure).
Without since, until and events it goes on from what replay_checkpoint() saved, if that is of the same invariants and projections, and reads only what is new; invariants of kind query are run from the beginning, and query_runs tells how often each was. Every check also asks whether each change found its row as the change before had left it (history_is_continuous). Users' expressions run as the caller and write nothing. Reads the whole log of the tables; works in READ ONLY transactions and on a standby, but for invariants of kind query. Errors: 42704 no such model, table, invariant or projection, 42725 a model and a table of that name, 22023 the window, 22003 a sum of more than 38 digits or NaN, 0A000 an argument that a table check does not take; and what the users' expressions raise.$$;
