//! The C symbols behind sql/install/library.sql and storage.sql.

crate::sql_functions! {
    capture_row / pg_finfo_capture_row => crate::capture::trigger::capture_row;
    capture_truncate / pg_finfo_capture_truncate => crate::capture::trigger::capture_truncate;
    audit_enable / pg_finfo_audit_enable => crate::capture::face::audit_enable;
    audit_disable / pg_finfo_audit_disable => crate::capture::face::audit_disable;
    enable_schema_checked / pg_finfo_enable_schema_checked => crate::capture::face::enable_schema_checked;
    library_version / pg_finfo_library_version => crate::capture::face::library_version;
    take_baseline / pg_finfo_take_baseline => crate::capture::whole_table::take_baseline;
    record_shape / pg_finfo_record_shape => crate::capture::face::record_shape;
    record_partition / pg_finfo_record_partition => crate::capture::known_partition::record_partition;
    holds_older_rows / pg_finfo_holds_older_rows => crate::capture::known_partition::holds_older_rows;
    is_own_xid / pg_finfo_is_own_xid => crate::capture::known_partition::is_own_xid;
    before_drop / pg_finfo_before_drop => crate::capture::known_partition::before_drop;
    invalidate_relation / pg_finfo_invalidate_relation => crate::capture::face::invalidate_relation;
    current_audit_transaction_id / pg_finfo_current_audit_transaction_id =>
        crate::capture::face::current_audit_transaction_id;
    note_action / pg_finfo_note_action => crate::capture::face::note_action;
    origin / pg_finfo_origin => crate::capture::face::origin;
    next_xid / pg_finfo_next_xid => crate::capture::face::next_xid;
    oldest_other_writer / pg_finfo_oldest_other_writer => crate::capture::face::oldest_other_writer;
    pending_changes / pg_finfo_pending_changes => crate::capture::face::pending_changes;
    pending_transaction / pg_finfo_pending_transaction => crate::capture::face::pending_transaction;
    pending_cost / pg_finfo_pending_cost => crate::capture::face::pending_cost;
    stretch_of_commit / pg_finfo_stretch_of_commit => crate::history::stretches::stretch_of_commit;
    commit_stretches / pg_finfo_commit_stretches => crate::history::stretches::commit_stretches;
    key_of_actor / pg_finfo_key_of_actor => crate::context::identity_key::key_of_actor;
    key_lookup / pg_finfo_key_lookup => crate::history::key::key_lookup;
    table_lookup / pg_finfo_table_lookup => crate::history::key::table_lookup;
    digest_row_key / pg_finfo_digest_row_key => crate::history::key::digest_row_key;
    present_shape / pg_finfo_present_shape => crate::history::key::present_shape;
    typed_row_at_once / pg_finfo_typed_row_at_once => crate::history::at_once::typed_row_at_once;
    has_marks / pg_finfo_has_marks => crate::history::at_once::has_marks;
    horizon_at_once / pg_finfo_horizon_at_once => crate::history::at_once::horizon_at_once;
    has_witness / pg_finfo_has_witness => crate::history::at_once::has_witness;
    gapless_at_once / pg_finfo_gapless_at_once => crate::history::at_once::gapless_at_once;
    latest_op_at_once / pg_finfo_latest_op_at_once => crate::history::at_once::latest_op_at_once;
    row_state_at_once / pg_finfo_row_state_at_once => crate::history::at_once::row_state_at_once;
    row_image / pg_finfo_row_image => crate::history::row::row_image;
    object_keys / pg_finfo_object_keys => crate::history::row::object_keys;
    row_exact / pg_finfo_row_exact => crate::history::row::row_exact;
    row_key / pg_finfo_row_key => crate::history::row::row_key;
    as_of_support / pg_finfo_as_of_support => crate::history::keyed::as_of_support;
    type_definitions / pg_finfo_type_definitions => crate::history::respelling::type_definitions;
    respelling / pg_finfo_respelling => crate::history::respelling::respelling;
    respell / pg_finfo_respell => crate::history::respelling::respell;
    in_transaction_block / pg_finfo_in_transaction_block => crate::history::travel::in_transaction_block;
    forget_plans / pg_finfo_forget_plans => crate::history::travel::forget_plans;
    drop_together / pg_finfo_drop_together => crate::history::travel::drop_together;
    view_is_volatile / pg_finfo_view_is_volatile => crate::history::travel::view_is_volatile;
}
