-- A history of :changes changes of :rows rows, one of which has :versions versions, a transaction of 1,000 changes, and 1 % of the rows
-- changed since the moment that whole-table questions ask for. The moments go into the table "moment".
CREATE TABLE acct (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
INSERT INTO acct SELECT g, g % 10, 0, repeat('x', 60) FROM generate_series(1, :rows) g;
CREATE TABLE moment (name text PRIMARY KEY, at timestamptz, transaction_id uuid);
CREATE EXTENSION threadline_forensics;
SELECT threadline.audit_enable('acct');
VACUUM (ANALYZE, FREEZE) acct;

SELECT :changes / :rows - 1 AS times \gset
SELECT 'UPDATE acct SET abalance = abalance + 1' FROM generate_series(1, :times / 2) \gexec
VACUUM acct;

CREATE PROCEDURE versions(wanted int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..wanted LOOP
        UPDATE acct SET abalance = abalance + 1 WHERE aid = 1;
        COMMIT;
        IF n = wanted / 2 THEN
            INSERT INTO moment VALUES ('middle', clock_timestamp());
        END IF;
    END LOOP;
END
$$;
CALL versions(:versions);

BEGIN;
SELECT threadline.set_actor('user', 'u-1');
SET LOCAL threadline.correlation_id = 'incident';
SET LOCAL threadline.request_id = 'r-1';
SET LOCAL threadline.job_id = 'j-1';
UPDATE acct SET bid = bid + 1 WHERE aid BETWEEN :rows / 2 AND :rows / 2 + 999;
SELECT threadline.record_action('accounts.move') \g /dev/null
INSERT INTO moment VALUES ('incident', clock_timestamp(), threadline.current_audit_transaction_id());
COMMIT;

SELECT 'UPDATE acct SET abalance = abalance + 1' FROM generate_series(1, :times - :times / 2) \gexec
VACUUM (FULL, ANALYZE) acct;
INSERT INTO moment VALUES ('recent', clock_timestamp());
UPDATE acct SET abalance = -1 WHERE aid % 100 = 0;
VACUUM (ANALYZE) acct;
ANALYZE;
