//! In which order a list stands whose items two sides have put together.

/// `named` stand as they are, each with its place in the list of before, if it had one. `others`, in the order of their places, stand before the
/// named ones, except behind those that were before them already.
pub fn interleave<T>(named: Vec<(T, Option<usize>)>, others: Vec<(T, usize)>) -> Vec<T> {
    let mut list = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for (other, place) in others {
        while let Some((item, _)) = named.next_if(|(_, was)| was.is_some_and(|was| was < place)) {
            list.push(item);
        }
        list.push(other);
    }
    list.extend(named.map(|(item, _)| item));
    list
}
