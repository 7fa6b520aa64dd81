#![allow(clippy::unwrap_used)]
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::txn::Declined;

const TIMEOUT: Duration = Duration::from_millis(100);

fn engine(branches: usize) -> TwoPhase {
    TwoPhase::new(&vec![TIMEOUT; branches], Backoff::default(), 7)
}

fn step(engine: &mut TwoPhase, at_ms: u64, input: Input) -> Vec<Action> {
    let mut actions = Vec::new();
    engine.step(Duration::from_millis(at_ms), input, &mut actions);
    actions
}

fn declined() -> Vote {
    Vote::No(Declined::Business { code: "insufficient_funds".into(), detail: "short".into() })
}

const A: BranchIndex = BranchIndex(0);
const B: BranchIndex = BranchIndex(1);

#[test]
fn commit_is_never_sent_before_the_decision_is_durable() {
    let mut e = engine(2);
    assert_eq!(step(&mut e, 0, Input::Start), [Action::SendPrepare(A), Action::SendPrepare(B)]);
    assert_eq!(step(&mut e, 1, Input::Voted(A, Vote::Yes)), []);
    assert_eq!(
        step(&mut e, 2, Input::Voted(B, Vote::Yes)),
        [Action::PersistDecision(Decision::Commit)]
    );
    assert_eq!(
        step(&mut e, 3, Input::Persisted),
        [Action::SendCommit(A), Action::SendCommit(B), Action::Answer(Decision::Commit)]
    );
    step(&mut e, 4, Input::Acked(A, Ack::Done));
    assert_eq!(step(&mut e, 5, Input::Acked(B, Ack::Done)), [Action::Forget]);
    assert!(e.is_over());
}

#[test]
fn the_first_no_aborts_without_waiting_for_the_rest() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    let actions = step(&mut e, 1, Input::Voted(A, declined()));
    assert_eq!(actions, [Action::SendAbort(B), Action::PersistDecision(Decision::Abort)]);
    assert!(matches!(e.cause(), Some(AbortCause::Declined(A, _))));
}

#[test]
fn a_failed_decision_write_sends_nothing_and_is_in_doubt() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    step(&mut e, 1, Input::Voted(A, Vote::Yes));
    step(&mut e, 1, Input::Voted(B, Vote::Yes));
    assert_eq!(step(&mut e, 2, Input::PersistFailed), [Action::AnswerInDoubt]);
    assert!(e.is_over());
}

#[test]
fn a_late_vote_aborts_and_the_branch_is_told_until_it_acknowledges() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    step(&mut e, 1, Input::Voted(A, Vote::Yes));
    assert_eq!(e.deadline(), Some(TIMEOUT));
    let actions = step(&mut e, 100, Input::Tick);
    assert!(actions.contains(&Action::SendAbort(A)) && actions.contains(&Action::SendAbort(B)));
    step(&mut e, 101, Input::Persisted);
    step(&mut e, 101, Input::Acked(A, Ack::Done));
    step(&mut e, 102, Input::Acked(B, Ack::Unknown("lost".into())));
    step(&mut e, 103, Input::Voted(B, Vote::Yes));
    assert_eq!(e.late_votes(), [B]);
    let retry_at = u64::try_from(e.deadline().unwrap().as_millis()).unwrap();
    assert_eq!(step(&mut e, retry_at + 1, Input::Tick), [Action::SendAbort(B)]);
    step(&mut e, retry_at + 2, Input::Acked(B, Ack::Done));
    assert!(e.is_over());
}

#[test]
fn one_branch_alone_commits_in_one_phase_behind_a_durable_intent() {
    let mut e = engine(1);
    assert_eq!(step(&mut e, 0, Input::Start), [Action::PersistIntent]);
    assert_eq!(step(&mut e, 1, Input::Persisted), [Action::SendOnePhase(A)]);
    assert_eq!(
        step(&mut e, 2, Input::Voted(A, Vote::Yes)),
        [Action::PersistDecision(Decision::Commit)]
    );
    assert_eq!(
        step(&mut e, 3, Input::Persisted),
        [Action::Answer(Decision::Commit), Action::Forget]
    );
}

#[test]
fn a_lost_reply_to_a_one_phase_commit_is_inquired_never_guessed() {
    for (truth, decision) in
        [(Inquiry::Committed, Decision::Commit), (Inquiry::Aborted, Decision::Abort)]
    {
        let mut e = engine(1);
        step(&mut e, 0, Input::Start);
        step(&mut e, 1, Input::Persisted);
        assert_eq!(
            step(&mut e, 2, Input::Voted(A, Vote::Unknown("reset".into()))),
            [Action::SendInquiry(A)]
        );
        assert_eq!(step(&mut e, 3, Input::Inquired(A, Inquiry::Unknown("down".into()))), []);
        let again = e.deadline().unwrap();
        let mut actions = Vec::new();
        e.step(again, Input::Tick, &mut actions);
        assert_eq!(actions, [Action::SendInquiry(A)]);
        assert_eq!(
            step(&mut e, 1000, Input::Inquired(A, truth)),
            [Action::PersistDecision(decision)]
        );
    }
}

#[test]
fn read_only_branches_leave_after_phase_one() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    step(&mut e, 1, Input::Voted(A, Vote::ReadOnly));
    step(&mut e, 1, Input::Voted(B, Vote::Yes));
    assert_eq!(
        step(&mut e, 2, Input::Persisted),
        [Action::SendCommit(B), Action::Answer(Decision::Commit)]
    );
}

#[test]
fn recovery_takes_the_live_path_and_never_prepares_again() {
    let mut e = TwoPhase::recovered(&[true, false], Backoff::default(), 1);
    let actions = step(&mut e, 0, Input::Persisted);
    assert_eq!(actions, [Action::SendCommit(A), Action::Answer(Decision::Commit)]);
    assert_eq!(step(&mut e, 1, Input::Acked(A, Ack::Done)), [Action::Forget]);
}

#[test]
fn a_heuristic_end_is_reported_and_ends_the_branch() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    step(&mut e, 1, Input::Voted(A, Vote::Yes));
    step(&mut e, 1, Input::Voted(B, Vote::Yes));
    step(&mut e, 2, Input::Persisted);
    let actions = step(&mut e, 3, Input::Acked(A, Ack::Heuristic("rolled back".into())));
    assert_eq!(actions, [Action::ReportHeuristic(A)]);
    assert_eq!(step(&mut e, 4, Input::Acked(B, Ack::Done)), [Action::Forget]);
}

#[test]
fn retry_now_ends_one_wait_and_the_backoff_goes_on_from_there() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    assert_eq!(step(&mut e, 1, Input::RetryNow(A)), []);
    step(&mut e, 1, Input::Voted(A, Vote::Yes));
    step(&mut e, 1, Input::Voted(B, Vote::Yes));
    step(&mut e, 2, Input::Persisted);
    // While an answer is awaited there is no wait to be ended.
    assert_eq!(step(&mut e, 3, Input::RetryNow(A)), []);
    for attempt in 1..=5 {
        step(&mut e, 10, Input::Acked(A, Ack::Unknown("down".into())));
        assert_eq!(e.branch(A).attempts, attempt);
        let wait = e.branch(A).retry_at.unwrap().saturating_sub(Duration::from_millis(10));
        assert_eq!(wait, Backoff::default().wait(attempt, 7));
        assert_eq!(step(&mut e, 11, Input::RetryNow(A)), [Action::SendCommit(A)]);
        assert_eq!(step(&mut e, 11, Input::RetryNow(A)), []);
    }
    assert_eq!(step(&mut e, 12, Input::RetryNow(B)), []);
}

#[test]
fn what_an_operator_states_ends_a_branch_in_phase_two_only_and_changes_no_decision() {
    let mut e = engine(2);
    step(&mut e, 0, Input::Start);
    step(&mut e, 1, Input::Voted(A, Vote::Yes));
    assert_eq!(step(&mut e, 1, Input::Resolved(B, Claim::Done)), []);
    step(&mut e, 1, Input::Voted(B, Vote::Yes));
    assert_eq!(step(&mut e, 1, Input::Resolved(B, Claim::Gone)), []);
    assert_eq!(e.stage(), Stage::Deciding(Decision::Commit));
    step(&mut e, 2, Input::Persisted);
    step(&mut e, 3, Input::Acked(B, Ack::Unknown("down".into())));
    // What may be said of a one-phase commit means nothing here.
    assert_eq!(step(&mut e, 4, Input::Resolved(B, Claim::Aborted)), []);
    assert!(e.branch(B).retry_at.is_some());
    assert_eq!(step(&mut e, 5, Input::Resolved(B, Claim::Gone)), []);
    assert_eq!((e.branch(B).retry_at, e.branch_state(B)), (None, BranchState::Heuristic));
    assert_eq!(e.stage(), Stage::Completing(Decision::Commit));
    assert_eq!(step(&mut e, 6, Input::Acked(A, Ack::Done)), [Action::Forget]);
}

#[test]
fn an_inquiry_and_an_orphan_taken_up_ask_at_once_and_an_operator_may_answer_the_inquiry() {
    let mut e = TwoPhase::inquiring(Backoff::default(), 1);
    assert_eq!(step(&mut e, 0, Input::Tick), [Action::SendInquiry(A)]);
    assert_eq!(step(&mut e, 1, Input::Resolved(A, Claim::Done)), []);
    assert_eq!(
        step(&mut e, 1, Input::Resolved(A, Claim::Committed)),
        [Action::PersistDecision(Decision::Commit)]
    );
    let mut e = TwoPhase::orphan(Backoff::default(), 1);
    assert_eq!(step(&mut e, 0, Input::Tick), [Action::SendAbort(A)]);
    step(&mut e, 1, Input::Acked(A, Ack::Done));
    assert!(e.is_done());
}

/// A participant as seen from outside: what it holds must end as the decision says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    Nothing,
    Prepared,
    Committed,
    Aborted,
}

/// What an operator does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    /// Tells it to ask at once, at any moment.
    Hurries,
    /// Also states of branches that were not told yet that they are gone.
    Resolves,
}

/// Plays one engine against participants over a network that loses, repeats and reorders.
#[allow(clippy::too_many_lines, reason = "one match over all that an engine can ask for")]
fn play(
    operator: Operator,
    branches: usize,
    votes: &[u8],
    choices: &[u16],
) -> Result<(), TestCaseError> {
    let mut e = engine(branches);
    let mut held = vec![Held::Nothing; branches];
    let mut inbox: Vec<Input> = vec![Input::Start];
    let mut durable: Option<Decision> = None;
    let mut answered: Option<Decision> = None;
    let mut no_seen = false;
    let mut given_up = vec![false; branches];
    let mut now = 0;
    let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
    for _ in 0..2000 {
        if e.is_over() {
            break;
        }
        let choice = usize::from(choices.next().unwrap());
        let branch = BranchIndex(u16::try_from(choice % branches).unwrap());
        let input = if choice % 13 == 12 && !inbox.contains(&Input::Start) {
            let telling = matches!(e.stage(), Stage::Completing(_) | Stage::Inquiring);
            if operator == Operator::Resolves && telling && choice % 2 == 0 {
                let untold = [BranchState::Prepared, BranchState::Unclear, BranchState::Preparing];
                if e.stage() == Stage::Inquiring {
                    let held =
                        if held[0] == Held::Committed { Claim::Committed } else { Claim::Aborted };
                    Input::Resolved(branch, held)
                } else {
                    given_up[usize::from(branch.0)] |= untold.contains(&e.branch_state(branch));
                    Input::Resolved(branch, Claim::Gone)
                }
            } else {
                Input::RetryNow(branch)
            }
        } else if inbox.is_empty() {
            let Some(deadline) = e.deadline() else { panic!("stuck: {e:?}") };
            now = now.max(u64::try_from(deadline.as_millis()).unwrap() + 1);
            Input::Tick
        } else if choice % 11 == 10 {
            now += 60;
            Input::Tick
        } else {
            let index = choice % inbox.len();
            let repeatable =
                !matches!(inbox[index], Input::Start | Input::Persisted | Input::PersistFailed);
            if repeatable && choice % 7 == 6 { inbox[index].clone() } else { inbox.remove(index) }
        };
        now += 1;
        if matches!(input, Input::Persisted) {
            durable = e.decision().or(durable);
        }
        if matches!(&input, Input::Voted(_, Vote::No(_))) {
            no_seen = true;
        }
        for action in step(&mut e, now, input) {
            match action {
                Action::PersistIntent => inbox.push(Input::Persisted),
                Action::PersistDecision(decision) => {
                    if decision == Decision::Commit {
                        prop_assert!(branches == 1 || !no_seen);
                    }
                    prop_assert!(durable.is_none_or(|d| d == decision), "changed");
                    inbox.push(Input::Persisted);
                }
                Action::SendPrepare(index) => {
                    let i = usize::from(index.0);
                    let vote = match votes[i] % 6 {
                        0 => declined(),
                        1 => {
                            if held[i] == Held::Nothing {
                                held[i] = Held::Prepared;
                            }
                            Vote::Unknown("lost".into())
                        }
                        2 => Vote::ReadOnly,
                        _ => {
                            if held[i] == Held::Nothing {
                                held[i] = Held::Prepared;
                            }
                            Vote::Yes
                        }
                    };
                    inbox.push(Input::Voted(index, vote));
                }
                Action::SendOnePhase(index) => {
                    let vote = match votes[0] % 6 {
                        0 => declined(),
                        1 => Vote::Unknown("lost before".into()),
                        2 => {
                            held[0] = Held::Committed;
                            Vote::Unknown("lost after".into())
                        }
                        _ => {
                            held[0] = Held::Committed;
                            Vote::Yes
                        }
                    };
                    inbox.push(Input::Voted(index, vote));
                }
                Action::SendInquiry(index) => {
                    let answer = match held[0] {
                        _ if choice % 3 == 2 => Inquiry::Unknown("down".into()),
                        Held::Committed => Inquiry::Committed,
                        _ => {
                            held[0] = Held::Aborted;
                            Inquiry::Aborted
                        }
                    };
                    inbox.push(Input::Inquired(index, answer));
                }
                Action::SendCommit(index) => {
                    prop_assert_eq!(durable, Some(Decision::Commit), "sent before durable");
                    let i = usize::from(index.0);
                    prop_assert!(matches!(held[i], Held::Prepared | Held::Committed));
                    held[i] = Held::Committed;
                    let lost = choice % 5 == 4;
                    let ack = if lost { Ack::Unknown("lost".into()) } else { Ack::Done };
                    inbox.push(Input::Acked(index, ack));
                }
                Action::SendAbort(index) => {
                    let i = usize::from(index.0);
                    prop_assert!(held[i] != Held::Committed, "aborted a committed branch");
                    held[i] = Held::Aborted;
                    let lost = choice % 5 == 4;
                    let ack = if lost { Ack::Unknown("lost".into()) } else { Ack::Done };
                    inbox.push(Input::Acked(index, ack));
                }
                Action::Answer(decision) => {
                    prop_assert_eq!(durable, Some(decision), "answered before durable");
                    prop_assert!(answered.is_none(), "answered twice");
                    answered = Some(decision);
                }
                Action::AnswerInDoubt | Action::ReportHeuristic(_) => {
                    prop_assert!(false, "no failure was injected");
                }
                Action::Forget => {}
            }
        }
    }
    prop_assert!(e.is_over(), "not over: {e:?}");
    prop_assert!(answered.is_some());
    for (held, given_up) in held.into_iter().zip(given_up) {
        match durable {
            _ if given_up => {}
            Some(Decision::Commit) => {
                prop_assert!(matches!(held, Held::Committed | Held::Nothing), "{held:?}");
            }
            _ => prop_assert!(matches!(held, Held::Aborted | Held::Nothing), "{held:?}"),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn every_branch_ends_as_decided_whatever_the_network_does(
        branches in 1usize..5,
        votes in prop::collection::vec(any::<u8>(), 5),
        choices in prop::collection::vec(any::<u16>(), 0..400),
    ) {
        play(Operator::Hurries, branches, &votes, &choices)?;
    }

    #[test]
    fn an_operator_who_gives_branches_up_changes_nothing_for_the_others(
        branches in 1usize..5,
        votes in prop::collection::vec(any::<u8>(), 5),
        choices in prop::collection::vec(any::<u16>(), 0..400),
    ) {
        play(Operator::Resolves, branches, &votes, &choices)?;
    }
}
