-- What a good engineer writes by hand for the one question: how many events there are, how often an account gets below zero, and the
-- first event that does it.
CREATE TYPE found AS (events bigint, violations bigint, first_seq bigint);

-- The state of each key in an array, which is as quick as such a loop gets and takes keys that are small integers.
CREATE FUNCTION loop_array() RETURNS found LANGUAGE plpgsql AS $$
DECLARE
    e record;
    v_balances bigint[] := array_fill(0::bigint, ARRAY[(SELECT max((event ->> 'key')::int) FROM ev)]);
    v_before bigint;
    v_balance bigint;
    v_events bigint := 0;
    v_violations bigint := 0;
    v_first_seq bigint;
BEGIN
    FOR e IN SELECT seq, (event ->> 'key')::int AS key, (event ->> 'amount')::int AS amount FROM ev ORDER BY seq LOOP
        v_before := v_balances[e.key];
        v_balance := v_before + e.amount;
        v_balances[e.key] := v_balance;
        v_events := v_events + 1;
        IF v_balance < 0 AND v_before >= 0 THEN
            v_violations := v_violations + 1;
            v_first_seq := coalesce(v_first_seq, e.seq);
        END IF;
    END LOOP;
    RETURN (v_events, v_violations, v_first_seq);
END
$$;

-- In a table, which takes any key. The versions that one transaction leaves of a row cannot be pruned while it runs.
CREATE FUNCTION loop_table() RETURNS found LANGUAGE plpgsql AS $$
DECLARE
    e record;
    v_balance bigint;
    v_events bigint := 0;
    v_violations bigint := 0;
    v_first_seq bigint;
BEGIN
    CREATE TEMP TABLE state (key text PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50) ON COMMIT DROP;
    FOR e IN SELECT seq, event ->> 'key' AS key, (event ->> 'amount')::int AS amount FROM ev ORDER BY seq LOOP
        UPDATE state SET balance = balance + e.amount WHERE key = e.key RETURNING balance INTO v_balance;
        IF NOT FOUND THEN
            v_balance := e.amount;
            INSERT INTO state VALUES (e.key, v_balance);
        END IF;
        v_events := v_events + 1;
        IF v_balance < 0 AND v_balance - e.amount >= 0 THEN
            v_violations := v_violations + 1;
            v_first_seq := coalesce(v_first_seq, e.seq);
        END IF;
    END LOOP;
    RETURN (v_events, v_violations, v_first_seq);
END
$$;

-- A composite state is quicker here than an array. Events are counted beside it, by count(*).
CREATE TYPE account_state AS (balance bigint, violations bigint, first_seq bigint);
CREATE FUNCTION fold_step(state account_state, seq bigint, amount int) RETURNS account_state LANGUAGE sql IMMUTABLE
RETURN CASE WHEN (state).balance + amount < 0 AND (state).balance >= 0
            THEN ROW((state).balance + amount, (state).violations + 1, coalesce((state).first_seq, seq))::account_state
            ELSE ROW((state).balance + amount, (state).violations, (state).first_seq)::account_state END;
CREATE AGGREGATE fold(seq bigint, amount int) (SFUNC = fold_step, STYPE = account_state, INITCOND = '(0,0,)');
