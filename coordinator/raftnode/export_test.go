package raftnode

var CheckDue = due
