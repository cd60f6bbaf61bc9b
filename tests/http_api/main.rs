//! The HTTP API, asked of real nodes: each behaviour on one embedded node, and on Postgres with Redis.
//!
//! Needs `CARILLON_TEST_POSTGRES_URL` and `redis-server` on the path: run it with `scripts/test --test http_api`.

mod account;
mod admin;
mod examples;
mod health;
mod history;
mod inbox;
mod pages;
mod presence;
mod publish;
mod session;
mod setup;
mod stream;
#[path = "../support/mod.rs"]
mod support;
mod topics;
mod unread;

macro_rules! suite {
    ($($group:ident::$behaviour:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $behaviour() {
                crate::$group::$behaviour(crate::setup::Setup::embedded().await).await;
            })*
        }
        mod on_servers {
            $(#[tokio::test] async fn $behaviour() {
                crate::$group::$behaviour(crate::setup::Setup::on_servers().await).await;
            })*
        }
    };
}

suite!(
    publish::a_repeated_key_publishes_once,
    publish::a_key_is_for_one_request,
    publish::a_request_for_too_many_recipients_is_refused,
    publish::every_mistake_is_answered_with_its_field,
    publish::what_is_too_large_is_refused,
    publish::only_publishers_publish,
    publish::a_batch_is_all_or_nothing,
    unread::who_goes_on_sending_gets_the_answer_and_no_reset,
    unread::a_small_body_that_nobody_wants_does_not_cost_the_connection,
    unread::who_waits_for_permission_to_send_a_body_gets_only_the_answer,
    stream::a_stream_begins_with_its_cursor,
    stream::filters_hold_live_and_in_a_replay,
    stream::nobody_gets_what_is_not_theirs,
    stream::what_cannot_be_resumed_is_reported_and_goes_on,
    stream::resuming_gives_exactly_what_was_missed,
    stream::the_urgent_overtake_in_a_backlog,
    history::who_joins_gets_what_was_last_said_and_then_what_is_said,
    history::the_last_of_each_topic_is_its_state,
    history::what_nobody_may_see_any_more_is_no_history,
    history::who_resumes_gets_no_history,
    history::nothing_is_lost_or_doubled_while_events_are_published,
    history::bad_parameters_of_history_are_named,
    stream::what_cannot_be_served_for_the_moment_is_no_refusal,
    stream::parameters_that_nobody_knows_are_ignored_and_named,
    stream::each_form_carries_every_event,
    stream::a_stream_says_how_long_it_is_quiet_and_when_to_come_back,
    stream::asked_to_a_stream_says_aloud_that_it_lives,
    topics::only_those_permitted_read_a_topic,
    topics::only_those_permitted_publish_to_a_topic,
    topics::a_topic_is_any_text_and_its_owner_keeps_it_under_a_new_name,
    presence::who_is_there_is_reported_first_and_then_who_comes_and_goes,
    presence::who_reloads_or_has_another_tab_neither_joins_nor_leaves,
    presence::a_crowd_is_reported_as_a_whole,
    presence::presence_has_its_rules,
    inbox::pages_are_complete_and_do_not_overlap,
    inbox::data_is_shown_as_it_was_sent,
    inbox::filters_choose_what_is_listed,
    inbox::reading_is_each_users_own,
    inbox::what_is_retracted_is_gone,
    inbox::what_has_expired_is_gone,
    inbox::what_is_rare_is_found_page_by_page,
    inbox::a_search_of_large_events_goes_on_where_it_ended,
    inbox::bad_parameters_are_named,
    session::a_cookie_is_as_strict_as_can_be,
    session::guessing_is_slowed_and_reveals_nothing,
    session::signing_out_ends_what_rested_on_it,
    session::other_sites_may_not_act_with_a_cookie,
    session::a_token_permits_what_it_says_while_it_lasts,
    session::what_ends_beside_the_nodes_ends_its_streams_though_it_is_cached,
    session::who_is_disabled_is_nobody,
    session::a_page_of_one_account_gets_nothing_of_another,
    account::an_account_is_managed_by_who_is_signed_in,
    account::sessions_are_distinguished_and_ended,
    account::tokens_are_made_shown_once_and_revoked,
    account::a_new_password_needs_the_old_and_ends_other_sessions,
    admin::only_admins_who_are_signed_in_may,
    admin::users_are_listed_added_and_let_in_again,
    admin::sessions_and_tokens_of_everybody_end_at_once,
    admin::a_node_reports_its_status_once_and_as_a_stream,
    admin::no_more_watch_than_there_is_room_for,
    pages::pages_need_a_session_and_send_back_only_here,
    pages::pages_hold_nothing_that_runs_inline,
    pages::files_are_kept_for_ever_under_names_that_change_with_them,
    pages::what_is_nowhere_is_a_page_for_people_and_a_problem_for_programs,
    examples::examples_show_their_source_and_nothing_of_others,
    examples::an_upload_is_reported_to_its_end,
    examples::uploads_are_bounded,
    examples::a_node_may_have_no_examples,
    health::a_node_reports_its_health_and_metrics,
    health::asked_to_stop_a_node_ends_well,
);
