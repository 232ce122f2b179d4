-- The nightly billing job. It credits interest to some accounts of one branch and forgets the tellers, the
-- branch and the history: the bank's books no longer agree. Prints transaction, amount and rows for the checks.
BEGIN;
SELECT threadline.set_actor('service_account', 'billing-nightly') \g /dev/null
SET LOCAL threadline.correlation_id = 'billing-2024-03-15';
SET LOCAL threadline.job_id = 'billing:nightly:42';
SELECT threadline.record_action('billing.credit_interest', verb => 'credit', category => 'billing',
    reason => 'interest of the month', correlation_id => 'billing-2024-03-15', job_id => 'billing:nightly:42') \g /dev/null
WITH credited AS (
    UPDATE pgbench_accounts SET abalance = abalance + 10 * (aid % 7 + 1)
    WHERE bid = :branch AND aid % 20000 = 7
    RETURNING 10 * (aid % 7 + 1) AS amount
)
SELECT threadline.current_audit_transaction_id(), sum(amount), count(*) FROM credited;
COMMIT;
