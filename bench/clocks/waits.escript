#!/usr/bin/env escript
%%! -sname waits@localhost
%% Waits in the ways of Erlang; see waits.py.
main(_) ->
    ets:new(counts, [named_table, public]),
    [ets:insert(counts, {Way, 0}) || Way <- ['after', sleep, interval, send_after, back]],
    again('after', fun() -> receive never -> ok after 200 -> ok end end),
    again(sleep, fun() -> timer:sleep(200) end),
    timer:apply_interval(200, ets, update_counter, [counts, interval, 1]),
    again(send_after, fun() -> erlang:send_after(200, self(), now), receive now -> ok end end),
    spawn(fun() -> read_clock(erlang:monotonic_time()) end),
    {ok, Listener} = gen_tcp:listen(7000, [{ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true}]),
    accept(Listener).

again(Way, Wait) -> spawn(fun() -> for_ever(Way, Wait) end).

for_ever(Way, Wait) ->
    Wait(),
    ets:update_counter(counts, Way, 1),
    for_ever(Way, Wait).

read_clock(Last) ->
    Now = erlang:monotonic_time(),
    Now < Last andalso ets:update_counter(counts, back, 1),
    timer:sleep(2),
    read_clock(Now).

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Words = [io_lib:format("~s=~b", [Way, Count]) || {Way, Count} <- ets:tab2list(counts)],
    gen_tcp:send(Socket, [lists:join(" ", Words), "\n"]),
    gen_tcp:close(Socket),
    accept(Listener).
