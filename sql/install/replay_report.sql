-- The result of replay_check for people.

CREATE TYPE threadline.replay_violation_row AS (
    no             integer,
    invariant      text,
    table_name     text,
    table_pk       jsonb,
    change_id      bigint,
    transaction_id uuid,
    committed_at   timestamptz,
    actor_ref      jsonb,
    reason         text
);
COMMENT ON TYPE threadline.replay_violation_row IS 'One violation of a replay_check result; change_id is the last change recorded of the row.';

CREATE FUNCTION threadline.replay_violations(result jsonb) RETURNS SETOF threadline.replay_violation_row
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT v.no::integer, v.value ->> 'invariant', v.value ->> 'table_name', v.value -> 'table_pk',
           (v.value ->> 'change_id')::bigint,
           (v.value #>> '{transaction,id}')::uuid,
           (v.value #>> '{transaction,committed_at}')::timestamptz,
           nullif(v.value #> '{transaction,actor_ref}', 'null'),
           v.value ->> 'failure_reason'
    FROM jsonb_array_elements(replay_violations.result -> 'violations') WITH ORDINALITY AS v (value, no)
    ORDER BY v.no;
END;

CREATE FUNCTION threadline.replay_report(result jsonb, format text = 'text') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_markdown constant boolean := replay_report.format = 'markdown';
    v_rule constant text := repeat('═', 71);
    v_failed constant boolean := jsonb_array_length(replay_report.result -> 'violations') > 0;
    v_title text;
    v_lines text[];
    v_violation jsonb;
    v_event jsonb;
    v_no integer := 0;
BEGIN
    IF replay_report.format = 'json' THEN
        RETURN jsonb_pretty(replay_report.result);
    END IF;
    IF replay_report.format IS NULL OR replay_report.format NOT IN ('text', 'markdown') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('replay_report has no format "%s"', replay_report.format),
            HINT = 'Use format => ''text'', ''markdown'' or ''json''.';
    END IF;
    v_title := 'FORENSIC ANALYSIS: '
        || CASE replay_report.result ->> 'verdict'
               WHEN 'violated' THEN 'INVARIANT VIOLATION DETECTED'
               WHEN 'holds' THEN 'ALL INVARIANTS HOLD'
               ELSE 'NO VERDICT' END;
    v_lines := CASE WHEN v_markdown THEN ARRAY['# ' || v_title, ''] ELSE ARRAY[v_rule, v_title, v_rule, ''] END
        || pg_catalog.format('%s: %s changes of %s transactions replayed; coverage %s; %s',
               coalesce(replay_report.result ->> 'what', 'model'),
               replay_report.result ->> 'events_processed', replay_report.result ->> 'transactions',
               CASE WHEN (replay_report.result ->> 'complete')::boolean THEN 'complete' ELSE 'incomplete' END,
               pg_catalog.format('%s violations', coalesce(replay_report.result ->> 'violations_total', jsonb_array_length(replay_report.result -> 'violations')::text)));
    IF jsonb_array_length(replay_report.result -> 'not_compared') > 0 THEN
        v_lines := v_lines || ('Not compared: '
            || (SELECT string_agg(n.name, ', ') FROM jsonb_array_elements_text(replay_report.result -> 'not_compared') AS n (name)));
    END IF;
    FOR v_event IN SELECT g.value FROM jsonb_array_elements(replay_report.result #> '{coverage,gaps}') AS g (value) LOOP
        v_lines := v_lines || pg_catalog.format('Gap: %s from %s to %s', v_event ->> 'reason', v_event ->> 'since_at', v_event ->> 'until_at');
    END LOOP;
    FOR v_violation IN SELECT v.value FROM jsonb_array_elements(replay_report.result -> 'violations') AS v (value) LOOP
        v_no := v_no + 1;
        v_lines := v_lines || ARRAY[
            '',
            CASE WHEN v_markdown THEN '## ' ELSE '' END || 'FAILURE OCCURRED AT: '
                || CASE WHEN v_violation ->> 'failure_step' IS NOT NULL THEN 'Event #' || (v_violation ->> 'failure_step')
                        WHEN v_violation ->> 'kind' = 'discontinuous' THEN 'the change itself'
                        ELSE 'the end of the replay' END
                || coalesce(pg_catalog.format(', change %s', v_violation ->> 'change_id'), ''),
            pg_catalog.format('%s %s', v_violation ->> 'table_name', v_violation ->> 'table_pk'),
            '',
            threadline.report_heading('EVENT AT FAILURE:', v_markdown),
            threadline.report_value(v_violation -> 'event_at_failure', v_markdown),
            threadline.report_heading('FAILURE REASON:', v_markdown),
            pg_catalog.format('Assertion ''%s'' failed: %s', v_violation ->> 'invariant', v_violation ->> 'failure_reason'),
            threadline.report_heading('TRANSACTION:', v_markdown),
            threadline.report_value(v_violation -> 'transaction', v_markdown),
            threadline.report_heading('EVENTS LEADING TO FAILURE:', v_markdown)];
        SELECT v_lines || coalesce(array_agg(
                   CASE WHEN v_markdown THEN '- ' ELSE '' END
                   || pg_catalog.format('[%s] %s', e.no - 1, e.value) ORDER BY e.no), ARRAY['none recorded'])
        INTO v_lines
        FROM jsonb_array_elements(v_violation -> 'events_leading_to_failure') WITH ORDINALITY AS e (value, no);
        v_lines := v_lines || ARRAY[
            threadline.report_heading('STATE BEFORE FAILURE', v_markdown),
            threadline.report_value(v_violation -> 'state_before', v_markdown),
            threadline.report_heading('STATE AFTER FAILURE', v_markdown),
            threadline.report_value(v_violation -> 'state_after', v_markdown),
            threadline.report_heading('DIFFERENCE', v_markdown),
            threadline.report_value(v_violation -> 'state_diff', v_markdown)];
    END LOOP;
    IF v_failed AND (replay_report.result ->> 'violations_total')::bigint > v_no THEN
        v_lines := v_lines || ARRAY['', pg_catalog.format('%s more violations are not listed.', (replay_report.result ->> 'violations_total')::bigint - v_no)];
    END IF;
    RETURN array_to_string(v_lines || CASE WHEN v_markdown THEN '{}'::text[] ELSE ARRAY['', v_rule] END, E'\n');
END
$$;

CREATE FUNCTION threadline.report_heading(heading text, markdown boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN report_heading.markdown THEN '### ' ELSE '' END || report_heading.heading;

CREATE FUNCTION threadline.report_value(value jsonb, markdown boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN report_value.value IS NULL OR report_value.value = 'null' THEN 'none'
            WHEN report_value.markdown THEN '```json' || chr(10) || jsonb_pretty(report_value.value) || chr(10) || '```'
            ELSE jsonb_pretty(report_value.value) END;

COMMENT ON FUNCTION threadline.replay_violations(jsonb) IS
    'The violations of a replay_check result as rows (replay_violation_row), in its order: SELECT * FROM threadline.replay_violations(threadline.replay_check(''orders''));';
COMMENT ON FUNCTION threadline.replay_report(jsonb, text) IS
    'A replay_check result as a report to read. format: text, markdown or json. Errors: 22023 unknown format.';
