//! The plan against examples, and against a slow model that decides one pack at a time.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn limits(per_mille: u16) -> Limits {
    Limits { max_unused: MaxUnused::per_mille(per_mille), ..Limits::default() }
}

fn pack(number: u32, used: u64, unused: u64, state: State) -> Pack {
    let id = Id::of(&number.to_le_bytes());
    Pack { id, holds: Holds::Data, size: used + unused + 36, used, unused, state, damaged: false }
}

fn live(number: u32, used: u64, unused: u64) -> Pack {
    pack(number, used, unused, State::Live)
}

#[test]
fn pack_is_judged_by_what_knows_it_and_what_needs_it() {
    let packs = [
        live(0, 10 * MIB, 0),
        live(1, 0, MIB),
        pack(2, 0, MIB, State::Marked { ready: true }),
        pack(3, 0, MIB, State::Marked { ready: false }),
        pack(4, 5, MIB, State::Marked { ready: true }),
        pack(5, MIB, 0, State::Marked { ready: false }),
        pack(6, 0, MIB, State::Unnamed { ready: true }),
        pack(7, 0, MIB, State::Unnamed { ready: false }),
        pack(8, 0, MIB, State::Misdated),
        pack(9, 1, MIB, State::Misdated),
    ];
    let plan = plan(&packs, limits(1000));
    let expected = Plan {
        remove: vec![2, 6],
        take_back: vec![4, 5, 9],
        wait: vec![3],
        leave: vec![7],
        mark: vec![1, 8],
        rewrite: vec![],
    };
    assert_eq!(plan, expected);
}

#[test]
fn emptiest_packs_are_written_anew_until_little_enough_is_unused() {
    let packs = [
        live(0, 90 * MIB, 10 * MIB),
        live(1, 10 * MIB, 90 * MIB),
        live(2, 50 * MIB, 50 * MIB),
        live(3, 99 * MIB, MIB),
    ];
    let rewritten = |per_mille| plan(&packs, limits(per_mille)).rewrite;
    // 249 MiB are used: 151 MiB unused are 37.75 % of all.
    assert_eq!(rewritten(1000), Vec::<usize>::new());
    assert_eq!(rewritten(378), Vec::<usize>::new());
    assert_eq!(rewritten(377), [1]);
    assert_eq!(rewritten(50), [1, 2]);
    assert_eq!(rewritten(10), [0, 1, 2]);
    assert_eq!(rewritten(0), [0, 1, 2, 3]);
}

#[test]
fn damaged_pack_is_never_written_anew() {
    let mut packs = [live(0, MIB, 99 * MIB), live(1, 90 * MIB, 10 * MIB)];
    packs[0].damaged = true;
    assert_eq!(plan(&packs, limits(0)).rewrite, [1]);
    let mut small: Vec<Pack> = (0..20).map(|number| live(number, 1000, 0)).collect();
    small[3].damaged = true;
    assert!(!plan(&small, Limits::default()).rewrite.contains(&3));
}

#[test]
fn packs_of_many_small_sessions_are_merged() {
    let merged = |sizes: &[u64], holds| {
        let pack = |(number, size): (u32, &u64)| Pack { holds, ..live(number, *size, 0) };
        let packs: Vec<Pack> = (0..).zip(sizes).map(pack).collect();
        plan(&packs, Limits::default()).rewrite.len()
    };
    assert_eq!(merged(&[8000; 24], Holds::Data), 24);
    assert_eq!(merged(&[8000; 7], Holds::Data), 0);
    // What came out of an earlier merge waits until as much and more came together.
    let mut sizes = vec![8000; 24];
    sizes.push(200_000);
    assert_eq!(merged(&sizes, Holds::Data), 24);
    sizes.extend([8000; 60]);
    assert_eq!(merged(&sizes, Holds::Data), 85);
    assert_eq!(merged(&[2 * MIB; 100], Holds::Data), 0);
    assert_eq!(merged(&[300_000; 100], Holds::Data), 100);
    assert_eq!(merged(&[300_000; 100], Holds::Trees), 0);
    assert_eq!(merged(&[8000; 100], Holds::Both), 0);
}

/// Any packs, most of them of a size that is not merged.
fn any_pack() -> impl Strategy<Value = Pack> {
    let states = prop_oneof![
        6 => Just(State::Live),
        1 => any::<bool>().prop_map(|ready| State::Marked { ready }),
        1 => any::<bool>().prop_map(|ready| State::Unnamed { ready }),
        1 => Just(State::Misdated),
    ];
    let holds = prop_oneof![Just(Holds::Data), Just(Holds::Trees), Just(Holds::Both)];
    let bytes = || prop_oneof![2 => Just(0), 3 => 1..3000u64, 3 => 1..40 * MIB];
    (any::<u32>(), bytes(), bytes(), states, holds, prop::bool::weighted(0.05)).prop_map(
        |(number, used, unused, state, holds, damaged)| {
            let used = if matches!(state, State::Unnamed { .. }) { 0 } else { used };
            Pack { holds, damaged, ..pack(number, used, unused, state) }
        },
    )
}

/// Decides as [`plan`] does, slowly: looks for the emptiest pack again and again, and counts everything anew each time.
fn obvious(packs: &[Pack], per_mille: u16) -> Plan {
    let mut plan = Plan::default();
    for (place, pack) in packs.iter().enumerate() {
        let list = match (pack.state, pack.used > 0) {
            (State::Unnamed { ready: true }, _) | (State::Marked { ready: true }, false) => &mut plan.remove,
            (State::Unnamed { ready: false }, _) => &mut plan.leave,
            (State::Marked { ready: false }, false) => &mut plan.wait,
            (State::Marked { .. } | State::Misdated, true) => &mut plan.take_back,
            (State::Live | State::Misdated, false) => &mut plan.mark,
            (State::Live, true) => continue,
        };
        list.push(place);
    }
    let needed = |pack: &Pack| pack.used > 0;
    loop {
        let stays = |place: &usize| needed(&packs[*place]) && !plan.rewrite.contains(place);
        let used: u128 = packs.iter().filter(|pack| needed(pack)).map(|pack| u128::from(pack.used)).sum();
        let unused: u128 = (0..packs.len()).filter(stays).map(|place| u128::from(packs[place].unused)).sum();
        // unused / (used + unused) <= share, of whole bytes.
        let allowed = match per_mille {
            1000 => u128::MAX,
            share => used * u128::from(share) / (1000 - u128::from(share)),
        };
        let candidates = (0..packs.len()).filter(stays).filter(|place| {
            let pack = &packs[*place];
            pack.state == State::Live && pack.unused > 0 && !pack.damaged
        });
        let emptiest = candidates.max_by(|one, other| {
            let (one, other) = (&packs[*one], &packs[*other]);
            let left = u128::from(one.unused) * u128::from(other.used + other.unused);
            let right = u128::from(other.unused) * u128::from(one.used + one.unused);
            left.cmp(&right).then(other.id.cmp(&one.id))
        });
        match emptiest.filter(|_| unused > allowed) {
            Some(place) => plan.rewrite.push(place),
            None => break,
        }
    }
    for (holds, limit) in [(Holds::Data, MIB), (Holds::Trees, MIB / 4)] {
        let mut small: Vec<usize> = (0..packs.len())
            .filter(|place| {
                let pack = &packs[*place];
                let stays = pack.state == State::Live && pack.used > 0 && !plan.rewrite.contains(place);
                stays && !pack.damaged && pack.holds == holds && pack.size < limit
            })
            .collect();
        small.sort_by_key(|place| (packs[*place].size, packs[*place].id));
        // The longest beginning whose last pack is at most a third of those before it.
        let fits = |count: &usize| {
            let before: u64 = small[..count - 1].iter().map(|place| packs[*place].size).sum();
            packs[small[count - 1]].size * 3 <= before
        };
        if let Some(count) = (8..=small.len()).rev().find(fits) {
            plan.rewrite.extend(&small[..count]);
        }
    }
    plan.rewrite.sort_unstable();
    plan
}

/// Returns the packs as they are after a plan was carried out and the time of grace has passed.
fn carried_out(packs: &[Pack], plan: &Plan) -> Vec<Pack> {
    let gone = [&plan.remove, &plan.mark, &plan.rewrite].map(|list| list.as_slice()).concat();
    let mut after: Vec<Pack> = (0..packs.len())
        .filter(|place| !gone.contains(place))
        .map(|place| Pack {
            state: if plan.take_back.contains(&place) { State::Live } else { packs[place].state },
            ..packs[place]
        })
        .collect();
    for holds in [Holds::Data, Holds::Trees, Holds::Both] {
        let copied = plan.rewrite.iter().filter(|place| packs[**place].holds == holds);
        let mut rest: u64 = copied.map(|place| packs[*place].used).sum();
        let mut number = 0;
        while rest > 0 {
            let used = rest.min(16 * MIB);
            let state = State::Live;
            after.push(Pack { holds, ..pack(u32::MAX - number - holds as u32 * 1000, used, 0, state) });
            rest -= used;
            number += 1;
        }
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn plan_is_that_of_the_slow_model(
        packs in prop::collection::vec(any_pack(), 0..60),
        share in prop_oneof![Just(0), Just(1000), Just(50), 0..=1000u16],
    ) {
        prop_assert_eq!(plan(&packs, limits(share)), obvious(&packs, share));
    }

    #[test]
    fn nothing_needed_ever_goes_and_each_pack_has_one_fate(
        packs in prop::collection::vec(any_pack(), 0..60),
        share in 0..=1000u16,
    ) {
        let plan = plan(&packs, limits(share));
        for place in plan.remove.iter().chain(&plan.mark).chain(&plan.wait) {
            prop_assert_eq!(packs[*place].used, 0);
        }
        let mut all: Vec<usize> = plan.fates().iter().flat_map(|(_, places)| *places).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), count);
    }

    #[test]
    fn what_is_needed_stays_and_nothing_grows(
        packs in prop::collection::vec(any_pack(), 0..60),
        share in 0..=1000u16,
    ) {
        let plan = plan(&packs, limits(share));
        let after = carried_out(&packs, &plan);
        let used = |packs: &[Pack]| packs.iter().map(|pack| pack.used).sum::<u64>();
        let blobs = |packs: &[Pack]| packs.iter().map(|pack| pack.used + pack.unused).sum::<u64>();
        prop_assert_eq!(used(&after), used(&packs));
        prop_assert!(blobs(&after) <= blobs(&packs));
        // No more is unused than may be, but for what cannot be copied now.
        let candidates = after.iter().filter(|pack| pack.used > 0 && pack.unused > 0);
        let fixed = packs.iter().filter(|pack| pack.used > 0 && (pack.damaged || pack.state != State::Live));
        let unused: u64 = candidates.map(|pack| pack.unused).sum();
        let allowed = MaxUnused::per_mille(share).beside(used(&packs));
        prop_assert!(unused <= allowed.max(fixed.map(|pack| pack.unused).sum()));
    }

    #[test]
    fn where_everything_is_needed_and_nothing_is_small_nothing_is_done(
        sizes in prop::collection::vec(MIB..40 * MIB, 0..60),
        share in 0..=1000u16,
    ) {
        let packs: Vec<Pack> = (0..).zip(sizes).map(|(number, used)| live(number, used, 0)).collect();
        prop_assert_eq!(plan(&packs, limits(share)), Plan::default());
    }

    #[test]
    fn what_was_pruned_needs_no_second_prune(
        packs in prop::collection::vec(any_pack(), 0..60),
        share in 0..=1000u16,
    ) {
        let limit = limits(share);
        let mut packs = packs;
        let mut rounds = 0;
        loop {
            let next = plan(&packs, limit);
            if next.rewrite.is_empty() && next.mark.is_empty() && next.take_back.is_empty() {
                break;
            }
            packs = carried_out(&packs, &next);
            rounds += 1;
            prop_assert!(rounds <= 4, "still not done: {:?}", next);
        }
    }
}
