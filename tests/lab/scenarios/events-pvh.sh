# like: pvh
# event-records: yes
