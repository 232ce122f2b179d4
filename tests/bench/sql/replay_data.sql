-- A history of :events changes of :keys accounts, in transactions of ten statements, recorded by threadline_forensics in its log, and
-- the same as a plain table of jsonb events for those that have no log. Both are made of one plan, so that all fold the same numbers.
CREATE TABLE acct (
    id        int    PRIMARY KEY,
    owner     int    NOT NULL,
    status    text   NOT NULL,
    balance   bigint NOT NULL,
    amount    bigint NOT NULL, -- of the last movement
    moves     int    NOT NULL,
    reference bigint NOT NULL  -- the event that moved it last
) WITH (fillfactor = 50);
CREATE EXTENSION threadline_forensics;
SELECT threadline.audit_enable('acct') \g /dev/null

-- The events first_seq to last_seq. Every round moves each account once, so that a transaction never moves one twice: an invariant is
-- then as true at the commit as after each event, and all contenders find the same. Round 0 opens the accounts. Two neighbours in a
-- round always are the two sides of a transfer, so that each transaction sums to zero. No account gets below zero but for one in every
-- fifth of the first hundred rounds, which is repaid in the next round: a longer history has no more to tell of.
CREATE FUNCTION planned(first_seq bigint, last_seq bigint, OUT seq bigint, OUT key int, OUT op text, OUT amount int, OUT status text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT p.seq,
           1 + (p.place * 7919 % :keys)::int,
           CASE WHEN p.round = 0 THEN 'open' ELSE 'move' END,
           CASE WHEN p.round = 0 THEN 1000000
                WHEN p.round < 100 AND p.round % 5 = 2 AND p.place / 2 = p.round * 37 % (:keys / 2) THEN 2000000 * p.side
                WHEN p.round < 100 AND p.round % 5 = 3 AND p.place / 2 = (p.round - 1) * 37 % (:keys / 2) THEN -2000000 * p.side
                ELSE (1 + abs(hashint8((p.seq - 1) / 2) % 100)) * p.side END,
           CASE WHEN p.round = 0 THEN 'new' WHEN p.round % 10 = 5 THEN 'held' ELSE 'open' END
    FROM (
        SELECT g AS seq, (g - 1) / :keys AS round, (g - 1) % :keys AS place, CASE WHEN g % 2 = 1 THEN 1 ELSE -1 END AS side
        FROM generate_series(planned.first_seq, planned.last_seq) g
    ) p;
END;

CREATE PROCEDURE move(first_seq bigint, last_seq bigint) LANGUAGE plpgsql AS $$
DECLARE
    e record;
BEGIN
    FOR e IN SELECT * FROM planned(first_seq, last_seq) LOOP
        UPDATE acct
        SET status = e.status, balance = balance + e.amount, amount = e.amount, moves = moves + 1, reference = e.seq
        WHERE id = e.key;
        IF e.seq % 10 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END
$$;

INSERT INTO acct SELECT key, 1 + key % (:keys / 10), status, amount, amount, 0, seq FROM planned(1, :keys);
CALL move(:keys + 1, :events);

CREATE TABLE ev (seq bigint PRIMARY KEY, at timestamptz NOT NULL, event jsonb NOT NULL);
INSERT INTO ev
SELECT seq, now() + seq * interval '1 ms',
       jsonb_build_object('key', key, 'amount', amount, 'op', op, 'balance', sum(amount) OVER (PARTITION BY key ORDER BY seq))
FROM planned(1, :events)
ORDER BY seq;
VACUUM (ANALYZE, FREEZE) ev;
VACUUM (ANALYZE) acct;
VACUUM (ANALYZE) threadline.change_log;
VACUUM (ANALYZE) threadline.transaction_log;
