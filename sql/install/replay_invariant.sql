-- The kinds of invariants: what each says in its spec, and what the engine (src/replay) is given of each event for it.

-- An input of the engine. role: 0, or the number of a further table: the one that a reference goes to, those of a balance. scope: row (its row: the new one, or the old one of a
-- delete) or pair (new and old).
CREATE TYPE threadline.replay_input AS (
    role       integer,
    scope      text,
    expression text
);

CREATE TYPE threadline.replay_compiled AS (
    kind     jsonb,
    check_at jsonb,
    inputs   threadline.replay_input[]
);

CREATE FUNCTION threadline.refuse_spec(p_what text, p_detail text, p_kind text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('the specification of %s is not right', p_what),
        DETAIL = p_detail,
        HINT = coalesce((
            SELECT 'For example: ' || e.spec FROM (VALUES
                ('row', '{"table": "accounts", "check": "new.balance >= 0"}'),
                ('key_bound', '{"table": "entries", "key": "account_id", "aggregate": "sum(amount)", "check": "value >= 0"}'),
                ('balance', '{"table": "entries", "group": "journal_id", "aggregate": "sum(amount)", "equals": 0}'),
                ('transition', '{"table": "orders", "column": "status", "initial": ["new"], "allowed": {"new": ["paid", "cancelled"], "paid": ["shipped"]}, "terminal": ["cancelled"]}'),
                ('unique', '{"table": "bookings", "columns": ["room", "day"], "where": "not cancelled"}'),
                ('references', '{"table": "lines", "columns": ["order_id"], "to": "orders", "to_columns": ["id"]}'),
                ('requires', '{"table": "orders", "key": "id", "event": "new.status = ''shipped''", "earlier": "new.status = ''paid''", "within": "10 days"}'),
                ('forbids', '{"table": "orders", "key": "id", "event": "new.status = ''paid''", "since": "new.status = ''cancelled''", "unless": "new.status = ''reopened''"}'),
                ('rate', '{"table": "refunds", "key": "customer_id", "event": "old.id IS NULL", "at_most": 3, "per": "1 day"}'),
                ('monotone', '{"table": "meters", "column": "reading", "strict": false}'),
                ('deadline', '{"table": "orders", "open": "new.status = ''paid''", "close": "new.status = ''shipped''", "within": "2 days"}'),
                ('query', '{"sql": "SELECT id FROM accounts WHERE balance < 0"}'),
                ('projection', '{"projection": "totals", "check": "(state ->> ''sum'')::numeric = 0"}')) AS e (kind, spec)
            WHERE e.kind = p_kind), 'Kinds: row, key_bound, balance, transition, unique, references, requires, forbids, rate, monotone, deadline, query, projection.');
END
$$;

-- The engine's form of a check point.
CREATE FUNCTION threadline.check_point(p_what text, p_check_at text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_every constant text[] := regexp_match(p_check_at, '^\s*every\s+(\d{1,18})\s+events?\s*$', 'i');
    v_length interval;
BEGIN
    IF lower(btrim(p_check_at)) IN ('event', 'statement', 'commit', 'end') THEN
        RETURN to_jsonb(initcap(lower(btrim(p_check_at))));
    ELSIF v_every[1]::bigint > 0 THEN
        RETURN jsonb_build_object('Events', v_every[1]::bigint);
    ELSIF v_every IS NULL AND p_check_at ~* '^\s*every\s' THEN
        BEGIN
            v_length := regexp_replace(p_check_at, '^\s*every\s+', '', 'i')::interval;
        EXCEPTION WHEN data_exception THEN
            v_length := NULL;
        END;
        IF extract(epoch FROM v_length) > 0 THEN
            RETURN jsonb_build_object('Slices', (extract(epoch FROM v_length) * 1000000)::bigint);
        END IF;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('%s cannot be checked at "%s"', p_what, p_check_at),
        HINT = 'check_at => ''event'', ''statement'', ''commit'', ''every 100 events'', ''every 5 minutes'' or ''end''';
END
$$;

CREATE FUNCTION threadline.duration(p_what text, p_kind text, p_spec jsonb, p_name text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_length interval;
BEGIN
    BEGIN
        v_length := (p_spec ->> p_name)::interval;
    EXCEPTION WHEN data_exception THEN
        PERFORM threadline.refuse_spec(p_what, format('"%s" is no interval: %s', p_name, p_spec -> p_name), p_kind);
    END;
    IF v_length < interval '0' THEN
        PERFORM threadline.refuse_spec(p_what, format('"%s" is negative.', p_name), p_kind);
    END IF;
    RETURN (extract(epoch FROM v_length) * 1000000)::bigint;
END
$$;

-- Lists that must be lists, and no member that would be overlooked.
CREATE FUNCTION threadline.require_spec_shape(p_what text, p_kind text, p_spec jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_known constant text[] := ARRAY['table', 'projection'] || CASE p_kind
        WHEN 'row' THEN ARRAY['check'] WHEN 'projection' THEN ARRAY['check'] WHEN 'key_bound' THEN ARRAY['key', 'aggregate', 'check', 'where']
        WHEN 'balance' THEN ARRAY['group', 'aggregate', 'equals', 'where', 'and'] WHEN 'transition' THEN ARRAY['column', 'initial', 'allowed', 'terminal']
        WHEN 'unique' THEN ARRAY['columns', 'where'] WHEN 'references' THEN ARRAY['columns', 'to', 'to_columns', 'where']
        WHEN 'requires' THEN ARRAY['key', 'event', 'earlier', 'within'] WHEN 'forbids' THEN ARRAY['key', 'event', 'since', 'unless']
        WHEN 'rate' THEN ARRAY['key', 'event', 'at_most', 'per'] WHEN 'monotone' THEN ARRAY['key', 'column', 'strict']
        WHEN 'deadline' THEN ARRAY['key', 'open', 'close', 'within'] WHEN 'query' THEN ARRAY['sql', 'key'] END;
    v_name text;
BEGIN
    SELECT m.key INTO v_name FROM jsonb_object_keys(p_spec) AS m (key) WHERE m.key <> ALL (v_known) ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        PERFORM threadline.refuse_spec(p_what, format('Kind %s has no "%s".', p_kind, v_name), p_kind);
    END IF;
    FOREACH v_name IN ARRAY ARRAY['columns', 'to_columns', 'initial', 'terminal'] LOOP
        IF jsonb_typeof(p_spec -> v_name) NOT IN ('array', 'null') OR v_name LIKE '%columns' AND p_spec -> v_name = '[]' THEN
            PERFORM threadline.refuse_spec(p_what, format('"%s" must be a list%s.', v_name, CASE WHEN v_name LIKE '%columns' THEN ' of at least one' ELSE '' END), p_kind);
        END IF;
    END LOOP;
    IF jsonb_typeof(p_spec -> 'strict') NOT IN ('boolean', 'null') THEN
        PERFORM threadline.refuse_spec(p_what, format('"strict" is neither true nor false: %s', p_spec -> 'strict'), p_kind);
    END IF;
END
$$;

-- The type of an expression over a table's row, or over a projection's state.
CREATE FUNCTION threadline.expression_type(p_expression text, p_from text) RETURNS regtype
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_type pg_catalog.regtype;
BEGIN
    EXECUTE pg_catalog.format(E'SELECT pg_catalog.pg_typeof((%s\n)) FROM (SELECT) AS one LEFT JOIN %s ON true', p_expression, p_from) INTO v_type;
    RETURN v_type;
END
$$;

-- A value as a text that is the same where the type says that values are equal.
CREATE FUNCTION threadline.key_expression(p_expression text, p_from text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN pg_catalog.format(
        CASE threadline.expression_type(p_expression, p_from)::text
            WHEN 'numeric' THEN E'pg_catalog.trim_scale(%s\n)::text'
            WHEN 'real' THEN E'((%s\n) + 0)::text'
            WHEN 'double precision' THEN E'((%s\n) + 0)::text'
            WHEN 'citext' THEN E'pg_catalog.lower((%s\n)::text)'
            ELSE E'(%s\n)::text' END, p_expression);
END
$$;

-- A value in the order of its type: as a number, as microseconds, or as a text, which is compared bytewise.
CREATE FUNCTION threadline.ordered_expression(p_expression text, p_from text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_time constant text := E'(CASE WHEN pg_catalog.isfinite(%1$s\n) THEN (extract(epoch FROM (%1$s\n)) * 1000000)::bigint WHEN (%1$s\n)::text = ''infinity'' THEN 9223372036854775807 WHEN (%1$s\n) IS NOT NULL THEN -9223372036854775807 END)';
BEGIN
    RETURN pg_catalog.format(
        CASE threadline.expression_type(p_expression, p_from)::text
            WHEN 'smallint' THEN E'(%s\n)::bigint'
            WHEN 'integer' THEN E'(%s\n)::bigint'
            WHEN 'bigint' THEN E'(%s\n)'
            WHEN 'numeric' THEN E'(%s\n)'
            WHEN 'real' THEN E'(%s\n)::numeric'
            WHEN 'double precision' THEN E'(%s\n)::numeric'
            WHEN 'money' THEN E'(%s\n)::numeric'
            WHEN 'timestamp with time zone' THEN v_time
            WHEN 'timestamp without time zone' THEN v_time
            WHEN 'date' THEN v_time
            ELSE E'(%s\n)::text' END, p_expression);
END
$$;

-- Comparisons with numbers that the engine makes itself; NULL for any other check.
CREATE FUNCTION threadline.simple_tests(p_check text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_and(m.part IS NOT NULL) THEN
               jsonb_agg(jsonb_build_array(
                   (jsonb_build_object('<', 'Less', '<=', 'AtMost', '=', 'Equal', '<>', 'Unequal', '!=', 'Unequal', '>=', 'AtLeast', '>', 'More')) -> m.part[1],
                   m.part[2])) END
    FROM regexp_split_to_table(p_check, '\s+and\s+', 'i') AS p (text)
    CROSS JOIN LATERAL (SELECT regexp_match(p.text, '^\s*value\s*(>=|<=|<>|!=|=|<|>)\s*([+-]?\d{1,18}(?:\.\d{1,18})?)\s*$', 'i') AS part) m
$$;

-- What the engine is given for an invariant. p_from: what the expressions of each role may name when they are tried, one row of it. Errors of what the spec lacks; those in expressions are the caller's own.
CREATE FUNCTION threadline.compile_invariant(p_name text, p_kind text, p_spec jsonb, p_check_at text, p_over_projection boolean, p_from text[])
RETURNS threadline.replay_compiled
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_what constant text := pg_catalog.format('invariant "%s"', p_name);
    v_row text := p_from[1] || ' AS new';
    v_part jsonb;
    v_group text;
    v_compiled threadline.replay_compiled;
    v_inputs threadline.replay_input[] := '{}';
    v_needed text[];
    v_missing text;
    v_aggregate text[];
    v_function text;
    v_type text;
    v_column text;
    v_by_row constant boolean := p_spec ->> 'key' IS NULL;
BEGIN
    v_needed := CASE p_kind
        WHEN 'row' THEN ARRAY['check'] WHEN 'projection' THEN ARRAY['projection', 'check']
        WHEN 'key_bound' THEN ARRAY['key', 'aggregate', 'check'] WHEN 'balance' THEN ARRAY['aggregate', 'equals']
        WHEN 'transition' THEN ARRAY['column', 'allowed'] WHEN 'unique' THEN ARRAY['columns']
        WHEN 'references' THEN ARRAY['columns', 'to', 'to_columns'] WHEN 'requires' THEN ARRAY['event', 'earlier']
        WHEN 'forbids' THEN ARRAY['event'] WHEN 'rate' THEN ARRAY['event', 'at_most', 'per'] WHEN 'monotone' THEN ARRAY['column']
        WHEN 'deadline' THEN ARRAY['open', 'close', 'within'] WHEN 'query' THEN ARRAY['sql'] END;
    IF v_needed IS NULL THEN
        PERFORM threadline.refuse_spec(v_what, pg_catalog.format('There is no kind "%s".', p_kind), p_kind);
    END IF;
    SELECT n.name INTO v_missing FROM pg_catalog.unnest(v_needed) AS n (name) WHERE p_spec -> n.name IS NULL OR p_spec -> n.name = 'null' LIMIT 1;
    IF FOUND THEN
        PERFORM threadline.refuse_spec(v_what, pg_catalog.format('"%s" is missing.', v_missing), p_kind);
    END IF;
    PERFORM threadline.require_spec_shape(v_what, p_kind, p_spec);
    v_compiled.check_at := threadline.check_point(v_what, p_check_at);
    CASE p_kind
    WHEN 'row' THEN
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'check'))::threadline.replay_input];
        v_compiled.kind := '"Row"';
    WHEN 'projection' THEN
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'check'))::threadline.replay_input];
        v_compiled.kind := '"State"';
    WHEN 'key_bound', 'balance' THEN
        -- A balance may be of several tables, whose rows are added up together.
        FOR v_role IN 0 .. CASE WHEN pg_catalog.jsonb_typeof(p_spec -> 'and') = 'array' THEN pg_catalog.jsonb_array_length(p_spec -> 'and') ELSE 0 END LOOP
            v_part := CASE v_role WHEN 0 THEN p_spec ELSE p_spec -> 'and' -> (v_role - 1) END;
            v_row := p_from[v_role + 1] || ' AS new';
            v_aggregate := pg_catalog.regexp_match(v_part ->> 'aggregate', '^\s*(sum|avg|count|min|max)\s*\((.*)\)\s*$', 'i');
            IF v_aggregate IS NULL OR v_aggregate[2] ~* '^\s*distinct\M' THEN
                PERFORM threadline.refuse_spec(v_what, pg_catalog.format('"aggregate" is %s, not sum, avg, count, min or max of an expression.', coalesce(v_part -> 'aggregate', 'null')), p_kind);
            ELSIF v_role > 0 AND pg_catalog.lower(v_aggregate[1]) <> v_function THEN
                PERFORM threadline.refuse_spec(v_what, pg_catalog.format('The aggregates of a balance are one function''s, not %s and %s.', v_function, pg_catalog.lower(v_aggregate[1])), p_kind);
            END IF;
            v_function := pg_catalog.lower(v_aggregate[1]);
            IF v_function = 'count' THEN
                v_aggregate[2] := CASE WHEN pg_catalog.btrim(v_aggregate[2]) = '*' THEN '1::bigint' ELSE pg_catalog.format(E'(CASE WHEN (%s\n) IS NOT NULL THEN 1::bigint END)', v_aggregate[2]) END;
            ELSE
                v_type := threadline.expression_type(v_aggregate[2], v_row)::text;
                v_aggregate[2] := pg_catalog.format(CASE WHEN v_type IN ('smallint', 'integer', 'bigint') THEN E'(%s\n)::bigint' ELSE E'(%s\n)::numeric' END, v_aggregate[2]);
            END IF;
            v_group := v_part ->> CASE p_kind WHEN 'balance' THEN 'group' ELSE 'key' END;
            v_inputs := v_inputs || ARRAY[
                ROW(v_role, 'row', threadline.predicate(v_part, 'where', 'true')),
                ROW(v_role, 'row', CASE WHEN v_group IS NULL THEN 'NULL::text' ELSE threadline.key_expression(v_group, v_row) END),
                ROW(v_role, 'row', v_aggregate[2])]::threadline.replay_input[];
        END LOOP;
        v_compiled.kind := pg_catalog.jsonb_build_object('Aggregate', pg_catalog.jsonb_build_object(
            'function', pg_catalog.initcap(v_function),
            'test', coalesce(pg_catalog.jsonb_build_object('All', CASE p_kind
                                 WHEN 'balance' THEN pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array('Equal', p_spec ->> 'equals'))
                                 ELSE threadline.simple_tests(p_spec ->> 'check') END), '{}')));
        IF v_compiled.kind #> '{Aggregate,test,All}' = 'null' THEN
            v_compiled.kind := pg_catalog.jsonb_set(v_compiled.kind, '{Aggregate,test}', '"Elsewhere"');
        ELSIF p_kind = 'balance' AND p_spec ->> 'equals' !~ '^[+-]?\d{1,18}(\.\d{1,18})?$' THEN
            PERFORM threadline.refuse_spec(v_what, pg_catalog.format('"equals" is no number: %s', p_spec -> 'equals'), p_kind);
        END IF;
    WHEN 'transition' THEN
        IF pg_catalog.jsonb_typeof(p_spec -> 'allowed') <> 'object' OR EXISTS (
            SELECT FROM pg_catalog.jsonb_each(CASE WHEN pg_catalog.jsonb_typeof(p_spec -> 'allowed') = 'object' THEN p_spec -> 'allowed' END) a WHERE pg_catalog.jsonb_typeof(a.value) <> 'array') THEN
            PERFORM threadline.refuse_spec(v_what, '"allowed" must list for each state the states that it may become.', p_kind);
        END IF;
        SELECT t.state INTO v_missing
        FROM pg_catalog.jsonb_array_elements_text(CASE WHEN pg_catalog.jsonb_typeof(p_spec -> 'terminal') = 'array' THEN p_spec -> 'terminal' ELSE '[]' END) AS t (state)
        WHERE pg_catalog.jsonb_array_length(p_spec -> 'allowed' -> t.state) > 0 LIMIT 1;
        IF FOUND THEN
            PERFORM threadline.refuse_spec(v_what, pg_catalog.format('"%s" is terminal, and yet allowed to become another.', v_missing), p_kind);
        END IF;
        v_inputs := ARRAY[ROW(0, 'row', threadline.column_reference(p_spec ->> 'column', p_over_projection) || '::text')::threadline.replay_input];
        v_compiled.kind := pg_catalog.jsonb_build_object('Transition', pg_catalog.jsonb_build_object('initial', nullif(p_spec -> 'initial', 'null'), 'allowed', p_spec -> 'allowed'));
    WHEN 'unique', 'references' THEN
        v_inputs := ARRAY[ROW(0, 'row', threadline.predicate(p_spec, 'where', 'true'))]::threadline.replay_input[];
        FOR v_column IN SELECT c.name FROM pg_catalog.jsonb_array_elements_text(p_spec -> 'columns') AS c (name) LOOP
            v_inputs := v_inputs || ROW(0, 'row', threadline.key_expression(threadline.column_reference(v_column, p_over_projection), v_row))::threadline.replay_input;
        END LOOP;
        v_compiled.kind := '"Unique"';
        IF p_kind = 'references' THEN
            IF pg_catalog.jsonb_array_length(p_spec -> 'columns') <> pg_catalog.jsonb_array_length(p_spec -> 'to_columns') THEN
                PERFORM threadline.refuse_spec(v_what, '"columns" and "to_columns" are not equally many.', p_kind);
            END IF;
            v_inputs := v_inputs || ROW(1, 'row', 'true')::threadline.replay_input;
            FOR v_column IN SELECT c.name FROM pg_catalog.jsonb_array_elements_text(p_spec -> 'to_columns') AS c (name) LOOP
                v_inputs := v_inputs || ROW(1, 'row', threadline.key_expression(threadline.column_reference(v_column, p_over_projection), p_from[2] || ' AS new'))::threadline.replay_input;
            END LOOP;
            v_compiled.kind := '"References"';
        END IF;
    WHEN 'requires' THEN
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'event')), ROW(0, 'pair', threadline.predicate(p_spec, 'earlier'))]::threadline.replay_input[];
        v_compiled.kind := pg_catalog.jsonb_build_object('Requires', pg_catalog.jsonb_build_object('within', threadline.duration(v_what, p_kind, p_spec, 'within'), 'by_row', v_by_row));
    WHEN 'forbids' THEN
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'event')), ROW(0, 'pair', threadline.predicate(p_spec, 'since', 'false')),
                          ROW(0, 'pair', threadline.predicate(p_spec, 'unless', 'false'))]::threadline.replay_input[];
        v_compiled.kind := pg_catalog.jsonb_build_object('Forbids', pg_catalog.jsonb_build_object('from_the_beginning', p_spec ->> 'since' IS NULL, 'by_row', v_by_row));
    WHEN 'rate' THEN
        IF p_spec ->> 'at_most' !~ '^\d{1,6}$' THEN
            PERFORM threadline.refuse_spec(v_what, pg_catalog.format('"at_most" is no number: %s', p_spec -> 'at_most'), p_kind);
        END IF;
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'event'))::threadline.replay_input];
        v_compiled.kind := pg_catalog.jsonb_build_object('Rate', pg_catalog.jsonb_build_object(
            'at_most', (p_spec ->> 'at_most')::integer, 'per', threadline.duration(v_what, p_kind, p_spec, 'per'), 'by_row', v_by_row));
    WHEN 'monotone' THEN
        v_inputs := ARRAY[ROW(0, 'row', threadline.ordered_expression(threadline.column_reference(p_spec ->> 'column', p_over_projection), v_row))::threadline.replay_input];
        v_compiled.kind := pg_catalog.jsonb_build_object('Monotone', pg_catalog.jsonb_build_object('strict', coalesce((p_spec ->> 'strict')::boolean, false), 'by_row', v_by_row));
    WHEN 'deadline' THEN
        v_inputs := ARRAY[ROW(0, 'pair', threadline.predicate(p_spec, 'open')), ROW(0, 'pair', threadline.predicate(p_spec, 'close'))]::threadline.replay_input[];
        v_compiled.kind := pg_catalog.jsonb_build_object('Deadline', pg_catalog.jsonb_build_object('within', threadline.duration(v_what, p_kind, p_spec, 'within'), 'by_row', v_by_row));
    WHEN 'query' THEN
        NULL;
    END CASE;
    IF p_kind IN ('requires', 'forbids', 'rate', 'monotone', 'deadline') AND NOT v_by_row THEN
        v_inputs := v_inputs || ROW(0, 'row', threadline.key_expression(p_spec ->> 'key', v_row))::threadline.replay_input;
    END IF;
    v_compiled.inputs := v_inputs;
    RETURN v_compiled;
END
$$;

-- Of a projection the columns are members of its states.
CREATE FUNCTION threadline.column_reference(p_column text, p_over_projection boolean) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN p_over_projection THEN format('(new ->> %L)', p_column) ELSE format('new.%I', p_column) END;

CREATE FUNCTION threadline.predicate(p_spec jsonb, p_name text, p_default text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN format(E'(%s\n)::boolean', coalesce(p_spec ->> p_name, p_default));

-- What expressions may name when they are tried.
CREATE FUNCTION threadline.trial_rows(p_relation regclass, p_scope text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN p_relation IS NOT NULL THEN
           format(CASE p_scope WHEN 'pair' THEN '%1$s AS new, %1$s AS old' ELSE '%1$s AS new' END, threadline.typed_nulls(p_relation))
       ELSE '(SELECT NULL::jsonb AS new, NULL::jsonb AS old, NULL::jsonb AS state, NULL::text AS key, NULL::jsonb AS event) AS states' END;

CREATE FUNCTION threadline.replay_add_invariant(model text, name text, kind text, spec jsonb, check_at text = 'commit', severity text = 'error') RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_what constant text := pg_catalog.format('invariant "%s"', replay_add_invariant.name);
    v_kind constant text := replay_add_invariant.kind;
    v_spec constant jsonb := replay_add_invariant.spec;
    v_relation regclass;
    v_relations regclass[];
    v_tables integer[] := '{}';
    v_compiled threadline.replay_compiled;
    v_input threadline.replay_input;
BEGIN
    PERFORM threadline.require_model(replay_add_invariant.model);
    IF coalesce(replay_add_invariant.name, '') = '' OR pg_catalog.jsonb_typeof(v_spec) IS DISTINCT FROM 'object' THEN
        PERFORM threadline.refuse_spec(v_what, 'A name and a JSON object are needed.', v_kind);
    END IF;
    IF replay_add_invariant.severity IS NULL OR replay_add_invariant.severity NOT IN ('error', 'warning') THEN
        PERFORM threadline.refuse_spec(v_what, pg_catalog.format('severity is "%s", not error or warning.', replay_add_invariant.severity), v_kind);
    END IF;
    IF v_spec ? 'projection' AND v_kind <> 'query' THEN
        IF NOT EXISTS (SELECT FROM threadline.replay_projections p WHERE p.model = replay_add_invariant.model AND p.name = v_spec ->> 'projection') THEN
            PERFORM threadline.refuse_spec(v_what, pg_catalog.format('Model "%s" has no projection "%s".', replay_add_invariant.model, v_spec ->> 'projection'), v_kind);
        END IF;
        IF v_kind = 'references' THEN
            PERFORM threadline.refuse_spec(v_what, 'A reference is between tables.', v_kind);
        END IF;
    ELSIF v_kind NOT IN ('query', 'projection') AND v_spec ->> 'table' IS NULL THEN
        PERFORM threadline.refuse_spec(v_what, '"table" is missing.', v_kind);
    ELSIF v_kind NOT IN ('query', 'projection') THEN
        v_relations := ARRAY[(v_spec ->> 'table')::regclass];
        IF v_kind = 'references' AND v_spec ->> 'to' IS NOT NULL THEN
            v_relations := v_relations || (v_spec ->> 'to')::regclass;
        ELSIF v_kind = 'balance' AND pg_catalog.jsonb_typeof(v_spec -> 'and') = 'array' THEN
            v_relations := v_relations || ARRAY(SELECT (p.value ->> 'table')::regclass FROM pg_catalog.jsonb_array_elements(v_spec -> 'and') WITH ORDINALITY AS p (value, n) ORDER BY p.n);
        END IF;
        FOREACH v_relation IN ARRAY v_relations LOOP
            v_tables := v_tables || threadline.model_table(v_relation);
        END LOOP;
    END IF;
    v_compiled := threadline.compile_invariant(replay_add_invariant.name, v_kind, v_spec, replay_add_invariant.check_at, v_relations IS NULL,
        CASE WHEN v_relations IS NOT NULL THEN ARRAY(SELECT threadline.typed_nulls(r.relation) FROM pg_catalog.unnest(v_relations) WITH ORDINALITY AS r (relation, n) ORDER BY r.n)
             ELSE ARRAY[threadline.state_nulls()] END);
    FOREACH v_input IN ARRAY v_compiled.inputs LOOP
        PERFORM threadline.try_expression(v_what, v_input.expression, CASE WHEN v_input.expression LIKE '%::boolean' THEN 'boolean' ELSE 'text' END,
            threadline.trial_rows(v_relations[v_input.role + 1], v_input.scope));
    END LOOP;
    IF v_kind = 'key_bound' THEN
        PERFORM threadline.try_expression(v_what, v_spec ->> 'check', 'boolean', '(SELECT NULL::numeric AS value) AS v');
    ELSIF v_kind = 'query' THEN
        PERFORM threadline.try_invariant_query(v_what, v_spec ->> 'sql', v_spec -> 'key');
    END IF;
    PERFORM threadline.store_invariant(replay_add_invariant.model, replay_add_invariant.name, v_kind, v_spec, replay_add_invariant.check_at,
                                       replay_add_invariant.severity, v_tables[1], v_tables[2:], CASE WHEN v_kind <> 'query' THEN v_spec ->> 'projection' END);
END
$$;
COMMENT ON FUNCTION threadline.replay_add_invariant(text, text, text, jsonb, text, text) IS
$$Adds an invariant to a model, or replaces the one of that name. kind and spec:
row {"table", "check"}: SQL over new and old, the row after and before each change. key_bound {"table", "key", "aggregate", "check", "where"}: sum, avg, count, min or max over the rows of each key; the check is SQL over value. balance {"table", "group", "aggregate", "equals", "where", "and"}: rows of further tables, [{"table", "group", "aggregate", "where"}], are added up with the table's. transition {"table", "column", "initial", "allowed", "terminal"}. unique {"table", "columns", "where"}. references {"table", "columns", "to", "to_columns", "where"}. requires {"table", "key", "event", "earlier", "within"}: the event needs an earlier one of the same key. forbids {"table", "key", "event", "since", "unless"}. rate {"table", "key", "event", "at_most", "per"}. monotone {"table", "key", "column", "strict"}. deadline {"table", "key", "open", "close", "within"}. query {"sql", "key"}: one query that returns the violating rows; the tables' names, written without a schema, mean the tables as they were; key lists the columns of it that tell violations apart, without which there is one at most at a time; it is run only when a table of it changed, after commits: event and statement mean commit, every <n> events the commit that makes n changes more of its tables' rows. projection {"projection", "check"}: SQL over state and key.
Instead of "table" every kind but references takes "projection": its states are the rows, new and old are jsonb. Events are predicates over new and old; a key, a group and the argument of an aggregate are SQL over the row. A check that is NULL holds; a predicate that is NULL does not match.
check_at: event, statement, commit, every <n> events, every <interval> (slices of time counted from 1970) or end; what is about several tables is not checked before all of them have a baseline. severity: error or warning, which alone does not make the verdict violated. Expressions may call no volatile function and read no table. Errors: 42704 no such model, or the table was never under capture, 42P01 no such table, 22023 the specification, 0A000 volatile or reads a table, or the table has no key; what is wrong with an expression is the server's own error.$$;

CREATE FUNCTION threadline.state_nulls() RETURNS text
LANGUAGE sql IMMUTABLE
RETURN '(SELECT NULL::jsonb AS new, NULL::jsonb AS old, NULL::jsonb AS state, NULL::text AS key, NULL::jsonb AS event)';
