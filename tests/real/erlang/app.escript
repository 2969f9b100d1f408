#!/usr/bin/env escript
%%! -sname service@localhost
%% Answers each line with `COUNT LINE`. The count is in ets, and a process of its own answers each connection.
main(_) ->
    ets:new(counts, [named_table, public]),
    ets:insert(counts, {all, 0}),
    {ok, Listener} = gen_tcp:listen(7000, [{ip, {127, 0, 0, 1}}, {packet, line}, {active, false}, {reuseaddr, true}, binary]),
    accept(Listener).

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive begin_now -> answer(Socket) end end),
    gen_tcp:controlling_process(Socket, Pid),
    Pid ! begin_now,
    accept(Listener).

answer(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Line} ->
            Count = ets:update_counter(counts, all, 1),
            gen_tcp:send(Socket, [integer_to_list(Count), " ", Line]),
            answer(Socket);
        _ -> gen_tcp:close(Socket)
    end.
