-- The query that feeds a run: the changes of a model's tables in commit order, with what each invariant is given of them
-- (replay_invariant.sql), and the steps of projections in between. Users' expressions stand in it as they were written.

CREATE FUNCTION threadline.run_begin(plan jsonb, state threadline.saved_run) RETURNS integer LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_begin';
CREATE FUNCTION threadline.run_feed(run integer, source integer, op smallint, commit_no bigint, id bigint, committed_at timestamptz, statement_no integer, version integer,
                                    key text, old_key text, begins_baseline boolean, sums bytea, event jsonb, old_state jsonb, new_state jsonb, VARIADIC inputs "any")
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_feed';
CREATE FUNCTION threadline.run_skip(run integer, reason text) RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_skip';
CREATE FUNCTION threadline.run_fail(run integer, source integer, key text, id bigint, committed_at timestamptz, reason text, event jsonb)
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_fail';
CREATE FUNCTION threadline.run_state(run integer, source integer, key text, id bigint) RETURNS jsonb LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_state';
CREATE FUNCTION threadline.run_states(run integer, source integer, most integer, OUT key text, OUT state jsonb)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_states';
CREATE FUNCTION threadline.run_value(run integer, invariant integer, of_new boolean, id bigint) RETURNS numeric LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_value';
CREATE FUNCTION threadline.run_judge(run integer, invariant integer, of_new boolean, holds boolean, id bigint)
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_judge';
CREATE FUNCTION threadline.run_save(run integer) RETURNS threadline.saved_run LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_save';
CREATE FUNCTION threadline.run_end(run integer, most integer) RETURNS jsonb LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'run_end';
CREATE FUNCTION threadline.image_sums(op smallint, old_image jsonb, new_image jsonb) RETURNS bytea LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'image_sums';

-- Tables that were never recorded by deltas, and the log of those, as stored.
CREATE VIEW threadline.replayable_table WITH (security_barrier) AS
SELECT t.table_id FROM threadline.readable_table t JOIN threadline.captured_table p ON p.table_id = t.table_id WHERE NOT p.has_deltas;

CREATE VIEW threadline.replayable_change WITH (security_barrier) AS
SELECT c.id, c.captured_at, c.transaction_id, c.table_id, c.statement_no, c.schema_version, c.op, c.key, c.old_key, c.old_image, c.new_image, c.old_exact, c.new_exact
FROM threadline.stored_change c
WHERE c.table_id = ANY (ARRAY(SELECT t.table_id FROM threadline.replayable_table t));

-- A source of a run. changes_from: the first change; baselines: first changes of later baselines; emptied: later baselines that found no row.
CREATE TYPE threadline.replay_source AS (
    n            integer,
    table_id     integer,
    relation     regclass,
    projection   text,
    changes_from bigint,
    since        timestamptz,
    is_known     boolean,
    baselines    bigint[],
    emptied      bigint[],
    has_deltas   boolean,
    inputs       threadline.replay_input[]
);

-- A column as its type of now, out of an image and exact texts given as expressions.
CREATE FUNCTION threadline.column_of_image(p_relation regclass, p_name name, p_type oid, p_modifier integer, p_image text, p_exact text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_type pg_type := (SELECT y FROM pg_type y WHERE y.oid = p_type);
BEGIN
    IF p_type = 'jsonb'::regtype THEN
        RETURN format('coalesce((%2$s ->> %3$L)::jsonb, nullif(%1$s -> %3$L, ''null''))', p_image, p_exact, p_name);
    ELSIF p_type = 'json'::regtype THEN
        RETURN format('coalesce(%2$s ->> %3$L, (nullif(%1$s -> %3$L, ''null''))::text)::json', p_image, p_exact, p_name);
    ELSIF v_type.typtype IN ('b', 'e', 'r', 'm') AND v_type.typcategory <> 'A' AND v_type.typelem = 0 THEN
        -- A length is what the value was recorded with.
        RETURN format('coalesce(%2$s ->> %3$L, %1$s ->> %3$L)::%4$s', p_image, p_exact, p_name,
                      CASE WHEN p_type IN ('bpchar'::regtype, 'bit'::regtype) THEN format_type(p_type, p_modifier)
                           WHEN p_type = '"char"'::regtype THEN '"char"' ELSE format_type(p_type, NULL) END);
    END IF;
    RETURN format('(%s).%I', threadline.typed_row(p_relation, p_image, p_exact), p_name);
END
$$;

-- Changes of a table that come as events, in the columns of the log: {"table", "op", "old", "new"} with the whole rows, and optionally
-- "key", "old_key" (as the log spells them), "old_exact", "new_exact", "transaction" and "statement" (numbers that do not decrease) and "actor_ref". With op pin there is "pin" instead:
-- {"invariant", "key", "state"}, what an invariant knows of a key before the events.
CREATE FUNCTION threadline.changes_of_events(p_source threadline.replay_source) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_keys constant text[] := (SELECT t.key_columns FROM threadline.readable_table t WHERE t.table_id = p_source.table_id);
    v_key constant text := CASE WHEN cardinality(v_keys) = 1 THEN format('%%1$s ->> %L', v_keys[1])
        ELSE 'jsonb_build_array(' || (SELECT string_agg(format('%%1$s ->> %L', k.name), ', ' ORDER BY k.n) FROM unnest(v_keys) WITH ORDINALITY AS k (name, n)) || ')::text' END;
BEGIN
    RETURN format($changes$(
        SELECT e.seq AS id, e.at AS captured_at, NULL::uuid AS transaction_id, %1$s AS table_id, coalesce((e.event ->> 'statement')::integer, 0) AS statement_no,
               (SELECT max(v.version) FROM threadline.readable_version v WHERE v.table_id = %1$s) AS schema_version, o.op,
               coalesce(CASE WHEN o.op = -2 THEN e.event ->> 'pin' ELSE e.event ->> 'key' END, CASE WHEN o.op <= 1 THEN %2$s ELSE %3$s END) AS key,
               CASE WHEN o.op = 5 THEN coalesce(e.event ->> 'old_key', nullif(%2$s, %3$s)) END AS old_key,
               nullif(e.event -> 'old', 'null') AS old_image, nullif(e.event -> 'new', 'null') AS new_image,
               nullif(e.event -> 'old_exact', 'null') AS old_exact, nullif(e.event -> 'new_exact', 'null') AS new_exact,
               coalesce((e.event ->> 'transaction')::bigint, e.seq) AS commit_no, e.event -> 'actor_ref' AS actor_ref
        FROM tl_events e
        CROSS JOIN LATERAL (SELECT CASE e.event ->> 'op' WHEN 'truncate' THEN 0 WHEN 'delete' THEN 1 WHEN 'snapshot' THEN 3 WHEN 'insert' THEN 4 WHEN 'update' THEN 5 WHEN 'pin' THEN -2 END::smallint AS op OFFSET 0) o
        WHERE e.event ->> 'table' = %4$L AND o.op IS NOT NULL)$changes$,
        p_source.table_id, format(v_key, '(e.event -> ''old'')'), format(v_key, '(e.event -> ''new'')'), threadline.qualified_name(p_source.relation));
END
$$;

-- A table's changes with the inputs of its invariants: one branch of the stream. p_of_events: those that come as events. p_apart:
-- inputs are columns i1 and so on, of which other branches know nothing, and not one record.
CREATE FUNCTION threadline.stream_branch(p_source threadline.replay_source, p_conditions text, p_with_event boolean, p_of_events boolean, p_apart boolean = false) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_expressions constant text := coalesce((SELECT string_agg(i.expression, ' ') FROM unnest(p_source.inputs) i), '');
    -- A row that is not followed by a column of it is meant as a whole.
    v_whole constant boolean := v_expressions ~* '\m(new|old)\M\s*(?!\s*\.)(?=[^\s.]|$)' OR v_expressions ~* '\m(new|old)\s*\.\s*\*';
    -- Of a delete there is only the old row; a predicate that is true of it names that, or what a new row lacks.
    v_old constant boolean := p_with_event OR v_expressions ~* '\mold\M'
        OR EXISTS (SELECT FROM unnest(p_source.inputs) i WHERE i.scope = 'pair' AND i.expression ~* '\m(null|true|not|coalesce)\M');
    v_versions record;
    v_in_place boolean;
    v_columns text;
    v_new_columns text;
    v_old_columns text;
    v_cur_columns text;
    v_new text;
    v_old_row text;
    v_row_inputs text;
    v_pair_inputs text;
    v_changes text := CASE WHEN p_of_events THEN threadline.changes_of_events(p_source) WHEN p_source.has_deltas THEN 'threadline.readable_change' ELSE 'threadline.replayable_change' END;
BEGIN
    -- A baseline that found no row has none in the log to begin it: a mark, after what its transaction had done before, says that all rows are gone.
    IF cardinality(p_source.emptied) > 0 THEN
        v_changes := format($emptied$(
            SELECT c.id, c.captured_at, c.transaction_id, c.table_id, c.statement_no, c.schema_version, c.op, c.key, c.old_key, c.old_image, c.new_image, c.old_exact, c.new_exact
            FROM %1$s c WHERE c.table_id = %2$s
            UNION ALL
            SELECT b.first_change_id, b.taken_at, b.transaction_id, b.table_id,
                   coalesce((SELECT max(o.statement_no) + 1 FROM threadline.readable_change o WHERE o.transaction_id = b.transaction_id AND o.id < b.first_change_id), 0),
                   NULL, 0::smallint, NULL, NULL, NULL, NULL, NULL, NULL
            FROM threadline.readable_baseline b WHERE b.table_id = %2$s AND b.first_change_id = ANY (%3$L::bigint[]))$emptied$,
            v_changes, p_source.table_id, p_source.emptied);
    END IF;
    SELECT string_agg(format('WHEN %s THEN %s', v.version, v.image), ' ' ORDER BY v.version) AS images,
           string_agg(format('WHEN %s THEN %s', v.version, v.exact), ' ' ORDER BY v.version) AS exacts
    INTO v_versions
    FROM threadline.version_as_now(p_source.table_id, p_source.relation, '{}', false) v;
    -- Images need not be made that are as they are now and whole.
    v_in_place := v_versions.images IS NULL AND NOT p_source.has_deltas;
    -- A column is read out of the new row, out of the old one, and out of the one that is there; the planner drops what no input asks for.
    SELECT string_agg(format('%s AS tl_%s%s', CASE WHEN w.place IS NULL THEN format('NULL::%s', format_type(a.atttypid, NULL))
                                                   ELSE threadline.column_of_image(p_source.relation, a.attname, a.atttypid, a.atttypmod, format(w.place, 'image', a.attname), format(w.place, 'exact', a.attname)) END,
                             w.of, a.attnum), ', ' ORDER BY a.attnum, w.of),
           string_agg(format('c.tl_n%s AS %I', a.attnum, a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE w.of = 'n'),
           string_agg(format('c.tl_o%s AS %I', a.attnum, a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE w.of = 'o'),
           string_agg(format('c.tl_r%s AS %I', a.attnum, a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE w.of = 'r')
    INTO v_columns, v_new_columns, v_old_columns, v_cur_columns
    FROM pg_attribute a
    CROSS JOIN (VALUES
        ('n', 'n.%1$s'),
        ('o', CASE WHEN NOT v_old THEN NULL
                   WHEN v_in_place THEN '(CASE WHEN c.op <= 1 THEN c.old_%1$s WHEN c.op = 5 THEN CASE WHEN c.old_image ? %2$L THEN c.old_%1$s ELSE c.new_%1$s END END)' ELSE 'o.%1$s' END),
        ('r', CASE WHEN NOT v_old THEN 'n.%1$s'
                   WHEN v_in_place THEN '(CASE WHEN c.op <= 1 THEN c.old_%1$s ELSE c.new_%1$s END)' ELSE '(CASE WHEN c.op <= 1 THEN o.%1$s ELSE n.%1$s END)' END)) AS w (of, place)
    WHERE a.attrelid = p_source.relation AND a.attnum > 0 AND NOT a.attisdropped
      AND (v_whole OR v_expressions ~* ('\m' || regexp_replace(a.attname, '([^\w])', '\\\1', 'g') || '\M') OR a.attname !~ '^\w+$');
    IF v_whole THEN
        v_new := threadline.typed_row(p_source.relation, 'c.tl_image', 'c.tl_exact');
        v_old_row := threadline.typed_row(p_source.relation, 'c.tl_old_image', 'c.tl_old_exact');
    END IF;
    SELECT string_agg(format(E'%s\n AS i%s', i.expression, i.n), ', ' ORDER BY i.n) FILTER (WHERE i.scope = 'row'),
           string_agg(format(E'%s\n AS i%s', i.expression, i.n), ', ' ORDER BY i.n) FILTER (WHERE i.scope = 'pair')
    INTO v_row_inputs, v_pair_inputs
    FROM unnest(p_source.inputs) WITH ORDINALITY AS i (role, scope, expression, n);
    RETURN format($query$
        SELECT %1$s AS source, c.tl_commit_no AS commit_no, c.tl_statement_no AS statement_no, c.tl_op AS op, c.tl_id AS id, c.tl_committed_at AS committed_at,
               c.tl_version AS version, c.tl_key AS key, c.tl_old_key AS old_key, c.tl_begins AS begins_baseline, c.tl_sums AS sums, %2$s, %3$s AS event
        FROM (
            SELECT coalesce(x.commit_no, CASE WHEN x.id IS NULL THEN c.id ELSE 9223372036854775807 END) AS tl_commit_no,
                   coalesce(x.committed_at, CASE WHEN x.id IS NULL THEN c.captured_at ELSE now() END) AS tl_committed_at, c.statement_no AS tl_statement_no,
                   CASE WHEN c.op = 0 AND c.old_image IS NULL THEN (-1)::smallint ELSE c.op END AS tl_op, c.id AS tl_id, c.schema_version AS tl_version,
                   c.key AS tl_key, CASE WHEN c.op = 5 THEN c.old_key END AS tl_old_key, %4$s AS tl_begins, %14$s AS tl_sums%5$s
            FROM %6$s c
            %13$s
            %7$s
            WHERE c.table_id = %8$s AND c.id >= %9$s AND c.op <> 2 %10$s
            OFFSET 0
        ) c
        %11$s%12$s$query$,
        p_source.n,
        (SELECT CASE WHEN p_apart THEN coalesce(string_agg(i.place, ', ' ORDER BY i.n), 'NULL::boolean AS i1') ELSE format('ROW(%s) AS inputs', coalesce(string_agg(i.place, ', ' ORDER BY i.n), 'NULL')) END
         FROM (SELECT CASE i.scope WHEN 'row' THEN 'r.i' ELSE 'p.i' END || i.n AS place, i.n FROM unnest(p_source.inputs) WITH ORDINALITY AS i (role, scope, expression, n)) i),
        CASE WHEN p_with_event THEN 'c.tl_event' ELSE 'NULL::jsonb' END,
        concat_ws(' OR ', CASE WHEN cardinality(p_source.baselines) > 0 THEN format('c.id = ANY (%L::bigint[])', p_source.baselines) ELSE 'false' END,
                  CASE WHEN cardinality(p_source.emptied) > 0 THEN 'c.schema_version IS NULL' END),
        coalesce(', ' || v_columns, '')
        || CASE WHEN v_whole THEN ', n.image AS tl_image, n.exact AS tl_exact, o.image AS tl_old_image, o.exact AS tl_old_exact' ELSE '' END
        || CASE WHEN p_with_event THEN format($event$, jsonb_build_object(
               'change_id', c.id, 'transaction_id', c.transaction_id, 'committed_at', x.committed_at, 'actor_ref', x.actor_ref, 'table', t.table_schema || '.' || t.table_name,
               'table_pk', threadline.key_object(t.key_columns, c.key), 'op', threadline.op_name(c.op),
               'changed_fields', CASE WHEN c.op = 5 THEN threadline.object_keys(c.old_image) END)
               || CASE WHEN o.image IS NULL THEN jsonb_build_object('new', n.image) WHEN n.image IS NULL THEN jsonb_build_object('old', o.image)
                       ELSE jsonb_build_object('old', o.image, 'new', n.image) END AS tl_event$event$) ELSE '' END,
        v_changes,
        format($rows$CROSS JOIN LATERAL (SELECT %1$s AS image, %2$s AS exact FROM (SELECT c.schema_version, c.new_image AS image, c.new_exact AS exact) s) n
            CROSS JOIN LATERAL (SELECT %1$s AS image, %2$s AS exact FROM (
                SELECT c.schema_version, CASE WHEN c.op <= 1 THEN c.old_image WHEN c.op = 5 THEN c.new_image || coalesce(c.old_image, '{}') END AS image,
                       CASE WHEN c.op <= 1 THEN c.old_exact WHEN c.op = 5 THEN threadline.replace_exact(c.new_exact, c.old_image, c.old_exact) END AS exact) s) o
            %3$s$rows$,
            coalesce('CASE s.schema_version ' || v_versions.images || ' ELSE s.image END', 's.image'),
            coalesce('CASE s.schema_version ' || v_versions.exacts || ' ELSE s.exact END', 's.exact'),
            CASE WHEN p_with_event THEN 'JOIN threadline.readable_table t ON t.table_id = c.table_id' ELSE '' END),
        p_source.table_id, p_source.changes_from, p_conditions,
        coalesce(format('CROSS JOIN LATERAL (SELECT %s FROM %s AS new) r', v_row_inputs,
            CASE WHEN v_whole THEN CASE WHEN v_old THEN format('(SELECT (CASE WHEN c.tl_op <= 1 THEN %s ELSE %s END).*)', v_old_row, v_new) ELSE v_new END
                 ELSE format('(SELECT %s)', v_cur_columns) END), ''),
        coalesce(format(' CROSS JOIN LATERAL (SELECT %s FROM %s AS new CROSS JOIN %s AS old) p', v_pair_inputs,
            CASE WHEN v_whole THEN v_new ELSE format('(SELECT %s)', v_new_columns) END,
            CASE WHEN v_whole THEN v_old_row ELSE format('(SELECT %s)', v_old_columns) END), ''),
        CASE WHEN p_of_events THEN 'CROSS JOIN LATERAL (SELECT c.transaction_id AS id, c.commit_no, c.captured_at AS committed_at, c.actor_ref) x'
             ELSE 'LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id' END,
        -- Who writes events may spell a value otherwise from one to the next.
        CASE WHEN p_of_events THEN 'NULL::bytea' ELSE 'threadline.image_sums(c.op, c.old_image, c.new_image)' END);
END
$$;

-- The whole stream's statement, which gives a row when the run needs no more. p_run stands for the run's number.
CREATE FUNCTION threadline.stream_statement(p_model text, p_sources threadline.replay_source[], p_conditions text, p_events text, p_run integer, p_guarded boolean, p_tests jsonb, p_mixed_events text DEFAULT NULL, p_overrides jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source threadline.replay_source;
    v_projection record;
    v_branches text[] := '{}';
    v_parts text[] := ARRAY['SELECT s.source AS part, s.event AS event WHERE s.source IS NOT NULL'];
    v_keys text := '';
    v_steps text := '';
    v_inputs text := '';
    v_has_tables boolean := false;
    v_events text;
    v_test record;
    v_judges text := '';
    v_stream text;
    v_feed text;
    -- One table and nothing else, as most models have it: its inputs need not be made records, which takes longer than to reckon with
    -- them. A function takes 100 arguments at most.
    v_is_plain constant boolean := cardinality(p_sources) = 1 AND p_sources[1].projection IS NULL AND p_events IS NULL AND p_mixed_events IS NULL AND cardinality(p_sources[1].inputs) <= 80;
BEGIN
    FOREACH v_source IN ARRAY p_sources LOOP
        IF v_source.projection IS NULL THEN
            IF p_mixed_events IS NOT NULL THEN
                v_branches := v_branches || threadline.stream_branch(v_source, '',
                    EXISTS (SELECT FROM unnest(p_sources) o WHERE o.projection IS NOT NULL AND o.table_id = v_source.table_id), true);
            END IF;
            v_branches := v_branches || threadline.stream_branch(v_source, CASE WHEN p_events IS NULL THEN p_conditions ELSE '' END,
                EXISTS (SELECT FROM unnest(p_sources) o WHERE o.projection IS NOT NULL AND o.table_id = v_source.table_id), p_events IS NOT NULL, v_is_plain);
            v_has_tables := true;
        ELSE
            SELECT p.key, coalesce(o.other -> 'init', p.init) AS init, coalesce(o.other ->> 'step', p.step) AS step, coalesce(o.other ->> 'mapping', p.mapping) AS mapping INTO v_projection
            FROM threadline.replay_projections p CROSS JOIN LATERAL (SELECT p_overrides -> p.name AS other) o
            WHERE p.model = p_model AND p.name = v_source.projection;
            v_parts := v_parts || format('SELECT %s, m.event FROM (SELECT s.event AS change) e LEFT JOIN LATERAL (%s) m ON true WHERE %s', v_source.n,
                CASE WHEN v_projection.mapping IS NULL THEN 'SELECT e.change AS event'
                     WHEN p_guarded THEN format('SELECT m.event FROM threadline.guarded_mapping(%s, %s, %L, e.change, s.id, s.committed_at) AS m (event)', p_run, v_source.n, v_projection.mapping)
                     ELSE format('SELECT m.event FROM %s(e.change) AS m (event)', v_projection.mapping) END,
                CASE WHEN v_source.table_id IS NULL THEN 's.source IS NULL'
                     ELSE format('s.source = %s AND NOT (s.op = -1 AND s.begins_baseline)', (SELECT o.n FROM unnest(p_sources) o WHERE o.table_id = v_source.table_id AND o.projection IS NULL)) END);
            v_keys := v_keys || format(E'WHEN %s THEN %s ', v_source.n,
                CASE WHEN v_projection.key IS NULL THEN '''''' ELSE format(E'(SELECT (%s\n)::text FROM (SELECT q.event AS event) e)', v_projection.key) END);
            v_steps := v_steps || format('WHEN %s THEN %s ', v_source.n,
                CASE WHEN p_guarded THEN format('threadline.guarded_step(%s, %s, %L, coalesce(q.old_state, %L::jsonb), q.event, q.part_key, q.id, q.committed_at, q.old_state)', p_run, v_source.n,
                                                threadline.step_expression(v_projection.step), v_projection.init)
                     ELSE format(E'(SELECT (%s\n)::jsonb FROM (SELECT coalesce(q.old_state, %L::jsonb) AS state, q.event AS event) e)', threadline.step_expression(v_projection.step), v_projection.init) END);
            v_inputs := v_inputs || format('WHEN %s THEN %s ', v_source.n, coalesce((
                SELECT format('(SELECT ROW(%s) FROM (SELECT q.new_state AS new, q.old_state AS old, q.new_state AS state, q.part_key AS key, q.event AS event) AS states)', string_agg(i.expression || E'\n', ', ' ORDER BY i.n))
                FROM unnest(v_source.inputs) WITH ORDINALITY AS i (role, scope, expression, n)), 'ROW(NULL)'));
        END IF;
    END LOOP;
    IF p_mixed_events IS NOT NULL THEN
        v_events := p_mixed_events;
    ELSIF p_events IS NOT NULL THEN
        -- Read once, whoever takes of it.
        v_events := format(E'SELECT e.seq::bigint, e.at::timestamptz, e.event::jsonb FROM (%s\n) AS e (seq, at, event) WHERE true %s', p_events, p_conditions);
        v_branches := v_branches || format($external$
            SELECT NULL::integer AS source, e.seq AS commit_no, 0 AS statement_no, 4::smallint AS op, e.seq AS id, e.at AS committed_at, 0 AS version, NULL::text AS key, NULL::text AS old_key,
                   false AS begins_baseline, NULL::bytea AS sums, NULL::record AS inputs, e.event
            FROM %s$external$, CASE WHEN v_has_tables THEN 'tl_events e WHERE e.event ->> ''table'' IS NULL' ELSE format('(%s) e', v_events) END);
    END IF;
    -- Checks of aggregates that the engine does not make itself.
    FOR v_test IN SELECT t.key::integer AS n, t.value AS check, s.of_new FROM jsonb_each_text(p_tests) t CROSS JOIN (VALUES (false), (true)) AS s (of_new) LOOP
        v_judges := v_judges || format(E' CROSS JOIN LATERAL (SELECT threadline.run_judge(%1$s, %2$s, %3$L, (%4$s\n)::boolean, f.id) AS judged FROM (SELECT threadline.run_value(%1$s, %2$s, %3$L, f.id) AS value OFFSET 0) v OFFSET 0) j%2$s%5$s',
            p_run, v_test.n, v_test.of_new, v_test.check, CASE WHEN v_test.of_new THEN 'n' ELSE 'o' END);
    END LOOP;
    v_stream := format('SELECT * FROM (%s) s ORDER BY s.commit_no, s.statement_no, s.op, s.id', array_to_string(v_branches, ' UNION ALL '));
    IF cardinality(v_parts) = 1 THEN
        v_feed := format('threadline.run_feed(%s, s.source, s.op, s.commit_no, s.id, s.committed_at, s.statement_no, s.version, s.key, s.old_key, s.begins_baseline, s.sums, NULL, NULL, NULL, %s)',
            p_run, CASE WHEN v_is_plain THEN (SELECT string_agg('s.i' || n, ', ' ORDER BY n) FROM generate_series(1, greatest(cardinality(p_sources[1].inputs), 1)) AS n) ELSE 's.inputs' END);
        IF v_judges = '' AND v_events IS NULL THEN
            RETURN format('SELECT 1 FROM (%s OFFSET 0) s WHERE %s LIMIT 1', v_stream, v_feed);
        END IF;
        v_stream := format('SELECT s.id, %s AS stop FROM (%s) s OFFSET 0', v_feed, v_stream);
    ELSE
        v_stream := format($fed$
            SELECT q.id, CASE WHEN q.reason IS NOT NULL THEN threadline.run_skip(%1$s, q.reason)
                        WHEN q.part = q.source THEN threadline.run_feed(%1$s, q.part, q.op, q.commit_no, q.id, q.committed_at, q.statement_no, q.version, q.key, q.old_key, q.begins_baseline, q.sums, NULL, NULL, NULL, q.inputs)
                        ELSE threadline.run_feed(%1$s, q.part, q.op, q.commit_no, q.id, q.committed_at, q.statement_no, 0, q.part_key, NULL, false, NULL,
                                                 q.event, q.old_state, q.new_state, CASE q.part %2$s END) END AS stop
            FROM (
                SELECT q.*, CASE WHEN q.reason IS NULL AND q.part IS DISTINCT FROM q.source THEN CASE q.part %3$s END END AS new_state
                FROM (
                    SELECT q.*, CASE WHEN q.reason IS NULL AND q.part IS DISTINCT FROM q.source THEN threadline.run_state(%1$s, q.part, q.part_key, q.id) END AS old_state
                    FROM (
                        SELECT q.*, CASE WHEN q.part IS NOT DISTINCT FROM q.source THEN NULL
                                         WHEN q.event IS NULL THEN 'unmapped'
                                         WHEN jsonb_typeof(q.event -> 'skip') = 'string' AND q.event = jsonb_build_object('skip', q.event -> 'skip') THEN q.event ->> 'skip'
                                         WHEN q.part_key IS NULL THEN 'no key' END AS reason
                        FROM (
                            SELECT q.*, CASE WHEN q.part IS DISTINCT FROM q.source AND q.event IS NOT NULL AND NOT (jsonb_typeof(q.event -> 'skip') = 'string' AND q.event = jsonb_build_object('skip', q.event -> 'skip'))
                                             THEN CASE q.part %4$s END END AS part_key
                            FROM (SELECT s.source, s.commit_no, s.statement_no, s.op, s.id, s.committed_at, s.version, s.key, s.old_key, s.begins_baseline, s.sums, s.inputs, p.part, p.event
                                  FROM (%5$s) s CROSS JOIN LATERAL (%6$s) p OFFSET 0) q OFFSET 0) q OFFSET 0) q OFFSET 0) q OFFSET 0) q OFFSET 0$fed$,
            p_run, v_inputs, v_steps, v_keys, v_stream, array_to_string(v_parts, ' UNION ALL '));
    END IF;
    RETURN CASE WHEN v_has_tables AND v_events IS NOT NULL THEN format('WITH tl_events (seq, at, event) AS MATERIALIZED (%s) ', v_events) ELSE '' END
        || format('SELECT 1 FROM (SELECT f.stop FROM (%s) f%s OFFSET 0) f WHERE f.stop LIMIT 1', v_stream, v_judges);
END
$$;

-- What a function of a projection makes of an event; where it fails the run learns of it.
CREATE FUNCTION threadline.guarded_mapping(p_run integer, p_source integer, p_mapping text, p_change jsonb, p_id bigint, p_at timestamptz) RETURNS SETOF jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_code text;
    v_message text;
BEGIN
    RETURN QUERY EXECUTE pg_catalog.format('SELECT m.event FROM %s($1) AS m (event)', p_mapping) USING p_change;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
    PERFORM threadline.run_fail(p_run, p_source, '', p_id, p_at, pg_catalog.format('the mapping failed: %s (SQLSTATE %s)', v_message, v_code), p_change);
    RETURN NEXT '{"skip": "error"}';
END
$$;

CREATE FUNCTION threadline.guarded_step(p_run integer, p_source integer, p_step text, p_state jsonb, p_event jsonb, p_key text, p_id bigint, p_at timestamptz, p_unchanged jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_state jsonb;
    v_code text;
    v_message text;
BEGIN
    EXECUTE pg_catalog.format(E'SELECT (%s\n)::jsonb FROM (SELECT $1 AS state, $2 AS event) e', p_step) INTO v_state USING p_state, p_event;
    RETURN v_state;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
    PERFORM threadline.run_fail(p_run, p_source, p_key, p_id, p_at, pg_catalog.format('the step failed: %s (SQLSTATE %s)', v_message, v_code), p_event);
    RETURN p_unchanged;
END
$$;
